"""A workspace goes into one file while it is used, and serves again when it is restored from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from integration import serving_world as world
from integration.serving_world import opened_client, recommend

from reclm import stages
from reclm.errors import InputError, PublishError, WorkspaceError
from reclm.features.online import read_user
from reclm.features.store import open_store
from reclm.maintenance.backup import back_up
from reclm.maintenance.restore import restore
from reclm.settings.tree import Settings
from reclm.storage import audit, erasures
from reclm.storage.files import read_json, write_json
from reclm.storage.locks import alone
from reclm.storage.version import LAYOUT
from reclm.storage.workspace import Workspace

USER = "user 3"
LANDED = Path("landing", "interactions", "b.parquet")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The toy shop with a log that has landed and what a back-up leaves out."""
    settings = world.open_shop(tmp_path_factory.mktemp("shop"))
    workspace = settings.paths
    about = {"name": "shop", "layout": LAYOUT, "importer": "columns", "source": "shop", "batches": []}
    write_json(workspace.dataset, {**about, "split_mode": "temporal", "has_event_ts": True})
    (workspace.root / LANDED).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"user_id": [USER, "user 4"]}), workspace.root / LANDED)
    (workspace.root / "inbox").mkdir()
    (workspace.root / "inbox" / "events.csv").write_text("user_id,item_id\n")
    return settings


@pytest.fixture
def file(shop: Settings, tmp_path: Path) -> Path:
    back_up(shop, tmp_path / "shop.tar.zst")
    return tmp_path / "shop.tar.zst"


def at(settings: Settings, folder: Path) -> Settings:
    return settings.model_copy(update={"workspace": folder})


class TestARestoredWorkspace:
    def test_serves_what_the_other_one_serves(self, shop: Settings, file: Path, tmp_path: Path) -> None:
        restored = at(shop, tmp_path / "restored")
        about = restore(restored, file, stages.build)
        assert about["online"] > 0
        with opened_client(shop) as before, opened_client(restored) as after:
            found = [recommend(client, user_id=USER, k=5) for client in (before, after)]
        assert found[0]["items"] == found[1]["items"]
        assert found[1]["source"] == "trained"
        assert [one["action"] for one in audit.entries(restored.paths)][-1] == "restore"

    def test_has_all_files_but_those_that_are_left_out(self, shop: Settings, file: Path, tmp_path: Path) -> None:
        restored = at(shop, tmp_path / "restored")
        restore(restored, file, stages.build)
        assert not (restored.paths.root / "inbox").exists()
        for part in ("landing", "artifacts", "champion.json", "warehouse"):
            assert (restored.paths.root / part).exists(), part
        assert (restored.paths.feast / "offline" / "current").is_symlink()

    def test_lacks_whoever_was_erased_since(
        self, shop: Settings, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(erasures.FOLDER_VARIABLE, str(tmp_path / "outside"))
        built: list[Path] = []

        def build(settings: Settings, **_: bool) -> None:
            built.append(settings.paths.root)

        monkeypatch.setattr("reclm.ingest.collected.land_collected", lambda settings: {})
        erasures.remember(Workspace(shop.paths.root), [])  # the key is there before
        restored = at(shop, tmp_path / "restored")
        salt = read_json(shop.paths.landing / "forgotten.json")["salt"]
        copy = Workspace(tmp_path / "elsewhere")
        write_json(copy.landing / "forgotten.json", {"salt": salt, "digests": []})
        erasures.remember(copy, [USER])
        about = restore(restored, file, build)
        assert about["removed"]["landing"] == 1
        assert built == [tmp_path / ".restored.restoring"]
        assert pq.read_table(restored.paths.root / LANDED)["user_id"].to_pylist() == ["user 4"]
        version = read_json(restored.paths.champion)["version"]
        assert read_user(open_store(restored), USER, version) is None
        assert read_user(open_store(restored), "user 4", version) is not None

    @pytest.mark.full
    def test_fills_an_empty_redis_database_and_no_other(self, redis_port: int, tmp_path: Path) -> None:
        world.fw.redis_client(redis_port).flushall()
        used, empty = (f"127.0.0.1:{redis_port},db={number}" for number in (0, 1))
        original = world.open_shop(tmp_path / "shop", "feast.online_store=redis", f"feast.redis_url={used}")
        write_json(original.paths.dataset, {"name": "shop", "layout": LAYOUT, "batches": []})
        back_up(original, tmp_path / "b.tar.zst")
        restored = at(original, tmp_path / "restored")
        with pytest.raises(PublishError, match="flushdb"):
            restore(restored, tmp_path / "b.tar.zst", stages.build)
        restored = restored.model_copy(update={"feast": restored.feast.model_copy(update={"redis_url": empty})})
        assert restore(restored, tmp_path / "b.tar.zst", stages.build)["online"] > 0
        version = read_json(restored.paths.champion)["version"]
        assert read_user(open_store(restored), USER, version) is not None

    def test_takes_no_place_that_is_taken(self, shop: Settings, file: Path) -> None:
        with pytest.raises(InputError, match="exists; a back-up is restored into a new folder"):
            restore(shop, file, stages.build)


class TestABackUp:
    def test_waits_until_what_is_written_is_whole(self, shop: Settings, tmp_path: Path) -> None:
        impatient = Workspace(shop.paths.root, lock_timeout=0)
        settings = shop.model_copy()
        with alone(shop.paths.locks / "warehouse.lock", "busy"), pytest.MonkeyPatch.context() as patched:
            patched.setattr(Settings, "paths", impatient)
            with pytest.raises(WorkspaceError, match="a build runs"):
                back_up(settings, tmp_path / "b.tar.zst")
        assert list(tmp_path.iterdir()) == []
        assert not any((shop.paths.artifacts / ".partial").glob("backup-*"))

    def test_is_private_and_not_inside_the_workspace(self, shop: Settings, file: Path) -> None:
        assert file.stat().st_mode & 0o077 == 0
        with pytest.raises(InputError, match="lies inside the workspace"):
            back_up(shop, shop.paths.root / "b.tar.zst")

    @pytest.mark.parametrize(
        "damage",
        [
            lambda content: content[: len(content) // 2],
            lambda content: content[:5000] + bytes([content[5000] ^ 1]) + content[5001:],
            lambda content: b"no back-up",
        ],
        ids=["cut", "one bit", "another file"],
    )
    def test_that_is_damaged_is_refused(
        self, shop: Settings, file: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
    ) -> None:
        file.write_bytes(damage(file.read_bytes()))
        with pytest.raises(InputError, match=r"no whole back-up|is damaged"):
            restore(at(shop, tmp_path / "restored"), file, stages.build)
        assert not (tmp_path / "restored").exists()
