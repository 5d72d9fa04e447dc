"""What killed processes leave in a run's folder goes at the next start, and nothing else does."""

from pathlib import Path

from tpo.results.folder import own_folder


def test_half_written_files_go_at_the_next_start(tmp_path: Path) -> None:
    config = {"runs_dir": str(tmp_path)}
    with own_folder("quickstart", config) as path:
        (path / "figures").mkdir()
        left = [path / "config.json.0123abcd.tmp", path / "figures" / "change.png.89abcdef.tmp"]
        mine = [path / "notes.tmp", path / "summary.json", path / "draft.0123abcd.tmp.txt"]
        for file in (*left, *mine):
            file.touch()
    with own_folder("quickstart", config) as again:
        assert again == path
        assert not any(file.exists() for file in left) and all(file.exists() for file in mine)
