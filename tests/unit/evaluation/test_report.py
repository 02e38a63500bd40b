"""The page of an evaluation."""

from pathlib import Path

from components.evaluation.report import write_page


def test_titles_cannot_break_the_page(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"png")
    write_page({"teacher.effective_rank": 3.0}, [("<script>", "a.png")], tmp_path / "index.html")
    assert "<script>" not in (tmp_path / "index.html").read_text()
