"""Which code is running: the commit, and whether the working tree differs from it."""

import subprocess
from pathlib import Path

CODE_PATHS = ("components", "flows", "dvc.yaml", "pyproject.toml", "constraints.txt")


def code_version(root: Path) -> dict[str, str]:
    """Tags that name the running code.

    Args:
        root: a folder inside the git repository.

    Returns:
        `git.sha` (40 hex digits, or `none` before the first commit) and `git.dirty` (`true` when code, not
        data or parameters, differs from the commit). Empty outside a repository.
    """
    if _git(root, "rev-parse", "--git-dir") is None:
        return {}
    sha = _git(root, "rev-parse", "HEAD") or "none"
    changes = _git(root, "status", "--porcelain", "--", *CODE_PATHS)
    return {"git.sha": sha, "git.dirty": "true" if changes else "false"}


def lock_commit(root: Path) -> str | None:
    """The commit that recorded the present `dvc.lock`; None while the lock differs from what is committed."""
    made = _git(root, "log", "-1", "--format=%H", "--", "dvc.lock")
    is_committed = _git(root, "diff", "--quiet", "HEAD", "--", "dvc.lock") is not None
    return made if made and is_committed and (root / "dvc.lock").exists() else None


def _git(root: Path, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
