"""An adapter that was trained elsewhere is what its files are, wherever they lie."""

import shutil
from pathlib import Path

from tpo.evaluate.stages import import_adapter
from tpo.store.execute import execute
from tpo.store.files import file_digest
from tpo.store.store import Store


def test_the_same_adapter_from_another_place_makes_nothing_stale(tmp_path: Path) -> None:
    contents, ids = [], []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            (tmp_path / name / file).write_text(file)
        digests = {path.name: file_digest(path) for path in sorted((tmp_path / name).iterdir())}
        artifact = import_adapter(Store(tmp_path / "artifacts", execute=execute), tmp_path / name, digests)
        assert (artifact.path / "epoch-1" / "adapter_config.json").read_text() == "adapter_config.json"
        ids.append(artifact.artifact_id)
        contents.append(artifact.content)
        shutil.rmtree(artifact.path)
    assert ids[0] == ids[1] and contents[0] == contents[1]
