"""Frames of video files."""

import hashlib
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any

from components.data.decoding import MAX_PIXELS
from components.data.lock import Annotation
from components.data.sources.containers import Container, Place
from components.data.sources.digests import DigestCache, digest_of_file
from components.data.sources.listings import Member
from components.data.sources.selection import Selection, annotate
from components.errors import UserError

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer

VERSION = 1
"""Of how a frame is found and encoded: frames of another version are other objects."""
PATTERNS = ("*.mp4", "*.m4v", "*.mov", "*.mkv", "*.webm", "*.avi")
DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"
"""Formats that hold pictures themselves. Others name further files or addresses: playlists, lists, image sequences."""
QUALITY = 95
"""Of the JPEG that a frame becomes."""
END = 1 << 62
SEEK_SECONDS = 10
"""A frame farther ahead than this is sought; a nearer one is reached by decoding on."""


@dataclass(frozen=True)
class Videos:
    """Video files, of which one frame in an interval is taken.

    Args:
        rate: frames a second.
        digests: of the files.
    """

    rate: Fraction
    digests: DigestCache

    @property
    def reader(self) -> str:
        """The rate decides which frames there are."""
        return f"video {VERSION} {self.rate}"

    def selection(self, given: Selection) -> Selection:
        """Every frame is an image."""
        return given.of_everything()

    def open(self, place: Place) -> Container:
        """Opens a video."""
        return Video(place, self.rate, self.digests)


class Video:
    """The first video stream of a file, one frame for each interval of 1/rate seconds: the first shown in it.

    A frame is named by the time it is shown at, `SECONDS.MILLISECONDS.jpg` from the start of the stream. It is turned
    as a player would, and encoded as JPEG. Its digest is a hash of the file's SHA-256 and of that time, because the
    bytes of a JPEG differ between versions of its encoder. Its group is the file, its frame the number of the frame in
    the stream, its label the folder that the file is in. A frame that is damaged has no bytes, so that it is
    quarantined.

    Args:
        place: the file.
        rate: frames a second.
        digests: of files.
    """

    def __init__(self, place: Place, rate: Fraction, digests: DigestCache) -> None:
        self._place = place
        self._rate = rate
        self._digests = digests
        self._frames: Iterator[Any] = iter(())
        self._shown = END
        """Milliseconds of the last frame that was decoded."""

    def members(self, threads: int) -> Iterator[Member]:
        """Yields the chosen frames; the file is hashed and its packets are listed, nothing is decoded."""
        name = self._place.prefix.rstrip("/") or self._place.file.name
        label = annotate(name).label
        for number, shown in self._chosen():
            member = f"{shown // 1000:06d}.{shown % 1000:03d}.jpg"
            yield Member(member, None, self._digest(shown), Annotation(label, name, number))

    def read(self, member: str, digest: str | None) -> bytes:
        """Returns a frame as JPEG, see `Container.read`."""
        digits = member.removesuffix(".jpg").replace(".", "")
        if not digits.isdecimal():
            raise self._place.lacks(member)
        shown = int(digits)
        if digest is not None and digest != self._digest(shown):
            raise self._place.changed(member)
        with self._explained():
            return self._jpeg(shown)

    def prepare(self) -> None:
        """Opens the file, and finds out its digest."""
        self._file  # noqa: B018
        self._file_digest  # noqa: B018

    def _digest(self, shown: int) -> str:
        return f"video:{hashlib.sha256(f'{VERSION} {self._file_digest} {shown}'.encode()).hexdigest()}"

    @cached_property
    def _file_digest(self) -> str:
        return next(self._digests.digests([self._place.file.stamp()], lambda _: self._hashed()))

    def _hashed(self) -> str:
        with self._place.open() as file:
            return digest_of_file(file)

    def _chosen(self) -> Iterator[tuple[int, int]]:
        """Number and time in milliseconds of each frame that is taken."""
        with self._explained():
            times = sorted(
                packet.pts
                for packet in self._container.demux(self._stream)
                if packet.pts is not None and packet.size and not packet.is_discard
            )
        if not times:
            raise UserError(f"{self._place.uri}: its frames have no times", remedy="convert it to MP4, or exclude it")
        due = 0
        for number, shown in enumerate(map(self._milliseconds, times)):
            if shown * self._rate >= 1000 * due:
                yield number, shown
                due = math.floor(shown * self._rate / 1000) + 1

    def _jpeg(self, shown: int) -> bytes:
        """The frame shown then, decoded from a key frame at or before it, whatever was read before; b"" if damaged."""
        from av.error import FFmpegError

        _ = self._stream  # a file that cannot be opened is not a damaged frame
        try:
            frame = self._decoded_on(shown) or self._sought(shown)
            return b"" if frame is None or frame.is_corrupt else _encoded(frame)
        except MemoryError:
            raise MemoryError from None  # FFmpeg's own would be taken for a damaged frame
        except (FFmpegError, ValueError):
            return b""

    def _decoded_on(self, shown: int) -> "VideoFrame | None":
        """The frame, if it is near and no key frame comes before it: from one it is to be sought."""
        if not self._shown < shown <= self._shown + 1000 * SEEK_SECONDS:
            return None
        for frame in self._frames:
            self._shown = self._milliseconds(frame.pts)
            if self._shown >= shown or frame.key_frame:
                return frame if self._shown == shown and not frame.key_frame else None
        return None

    def _sought(self, shown: int) -> "VideoFrame | None":
        """Formats seek by the order of decoding: where they land too late, an earlier place is sought."""
        for back in (0, *(1000 << step for step in range(32))):
            start = max(0, shown - back)
            ticks = (Fraction(start, 1000) + self._start) / self._time_base
            self._container.seek(math.floor(ticks), stream=self._stream)
            self._frames = self._decoded()
            anchored = start == 0
            for frame in self._frames:
                self._shown = self._milliseconds(frame.pts)
                anchored = anchored or (frame.key_frame and self._shown <= shown)
                if self._shown >= shown:
                    break
            else:
                self._shown = END
                return None
            if anchored:
                return frame if self._shown == shown else None
        return None

    def _decoded(self) -> Iterator[Any]:
        """The frames from here on; packets that do not decode are passed over."""
        from av.error import FFmpegError

        for packet in self._container.demux(self._stream):
            try:
                yield from (frame for frame in packet.decode() if frame.pts is not None)
            except MemoryError:
                raise
            except FFmpegError:
                continue

    def _milliseconds(self, pts: int) -> int:
        return math.floor((pts * self._time_base - self._start) * 1000)

    @cached_property
    def _time_base(self) -> Fraction:
        found: Fraction | None = self._stream.time_base
        return Fraction(1, 1000) if found is None else found

    @cached_property
    def _start(self) -> Fraction:
        """Seconds at which the stream begins, in its own time."""
        return (self._stream.start_time or 0) * self._time_base

    @cached_property
    def _stream(self) -> Any:
        streams = self._container.streams.video
        if not streams:
            raise UserError(f"{self._place.uri}: has no video in it", remedy="exclude it")
        stream: Any = streams[0]
        if stream.codec_context is None:
            message = f"{self._place.uri}: is of a codec that cannot be decoded"
            raise UserError(message, remedy="convert it to MP4, or exclude it")
        if stream.width * stream.height > MAX_PIXELS:
            message = f"{self._place.uri}: {stream.width} × {stream.height} pixels"
            raise UserError(message, remedy=f"exclude it: at most {MAX_PIXELS} pixels are decoded")
        stream.codec_context.thread_count = 1  # each worker process decodes
        return stream

    @cached_property
    def _container(self) -> "InputContainer":
        av = _pyav()
        with self._explained():
            container: InputContainer = av.open(
                self._file,
                options={"format_whitelist": DEMUXERS, "protocol_whitelist": ""},
                io_open=_refused,
                metadata_errors="replace",
            )
        return container

    @cached_property
    def _file(self) -> io.BufferedReader:
        return io.BufferedReader(self._place.open())

    @contextmanager
    def _explained(self) -> Iterator[None]:
        error_kind = _pyav().error.FFmpegError
        try:
            yield
        except (error_kind, OSError, ValueError, ArithmeticError) as error:
            message = f"{self._place.uri}: cannot be read as video ({getattr(error, 'strerror', None) or error})"
            raise UserError(message, remedy="convert it to MP4, or exclude it") from None

    def __getstate__(self) -> dict[str, Any]:
        fresh = {"_frames": iter(()), "_shown": END}
        return {"_place": self._place, "_rate": self._rate, "_digests": self._digests, **fresh}


def _refused(url: str, flags: int, options: dict[str, str]) -> Any:
    raise PermissionError("names another file")


def _pyav() -> Any:
    try:
        import av
    except ImportError:
        remedy = "install it with `pip install -c constraints.txt 'selfsight[video]'`"
        raise UserError("the package av, which reads video, is missing", remedy=remedy) from None
    return av


def _encoded(frame: "VideoFrame") -> bytes:
    """A frame as JPEG.

    Raises:
        ValueError: if it has more pixels a side than a JPEG may have.
    """
    from av.video.reformatter import Interpolation
    from PIL import Image

    # without these two flags the processor's vector instructions decide the last bit
    exact = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
    image = Image.fromarray(frame.reformat(format="rgb24", interpolation=exact).to_ndarray())
    if frame.rotation % 360:
        image = image.rotate(frame.rotation, expand=True)
    buffer = io.BytesIO()
    try:
        image.save(buffer, "JPEG", quality=QUALITY)
    except OSError as error:  # Pillow's for whatever the encoder refuses
        raise ValueError(image.size) from error
    return buffer.getvalue()
