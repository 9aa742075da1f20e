"""Checkpoints: what is read was written, or is refused by name; what is kept, and what broken writers leave."""

from __future__ import annotations

import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from bess_jax.data.files import DataError, read_checked, write_checked
from bess_jax.run.about import About, Point
from bess_jax.run.checkpoint import BEST, LAST, Checkpoint, Checkpoints, NonFiniteStateError, Part, Team


def parts(seed: int = 0) -> dict[str, Part]:
    """Two shards of three arrays, and one that is the same on all."""
    rng = np.random.default_rng(seed)
    return {
        "params.entity": Part(rng.normal(size=(2, 5, 3)).astype(np.float32), True),
        "half": Part(rng.normal(size=(2, 4)).astype(ml_dtypes.bfloat16), True),
        "count": Part(np.array([7, 7], np.int32), False),
        "empty": Part(np.zeros((2, 0, 3), np.float32), True),
        "relation": Part(np.stack([rng.normal(size=(4, 3))] * 2), False),
    }


def about(epoch: int, call: int = 0, metric: float | None = None) -> About:
    return About(Point(epoch, call, 4), {"seed": 3, "n_shard": 2}, {"triples/train": "abc"}, metric)


def write(folder: Path, *abouts: About, keep: int = 9) -> Checkpoints:
    checkpoints = Checkpoints(folder)
    for number, one in enumerate(abouts):
        checkpoints.write(one, parts(number), range(2), keep)
    return checkpoints


def assert_is(found: Checkpoint, seed: int) -> None:
    for name, (array, per_shard) in parts(seed).items():
        for shard in range(2 if per_shard else 1):
            read = found.array(name, shard)
            assert read.dtype == array.dtype
            np.testing.assert_array_equal(read, array[shard])


def names(checkpoints: Checkpoints) -> list[str]:
    return [str(point) for point in checkpoints.points()]


def test_round_trip(tmp_path: Path) -> None:
    checkpoints = write(tmp_path, about(1), about(1, 2, 0.25))
    last = checkpoints.pick(LAST)
    assert last.about == about(1, 2, 0.25)
    assert last.path.name == "epoch-1-call-2-of-4"
    assert_is(last, 1)
    assert_is(checkpoints.pick("epoch-1"), 0)


def test_files_are_those_of_numpy(tmp_path: Path) -> None:
    write(tmp_path, about(1))
    array, _ = parts()["params.entity"]
    np.testing.assert_array_equal(np.load(tmp_path / "epoch-1" / "params.entity.1.npy"), array[1])


def test_points() -> None:
    for point in (Point(0, 0, 7), Point(3, 0, 7), Point(3, 2, 7)):
        again = Point.parse(str(point))
        assert again is not None
        assert again.progress == point.progress
    assert Point.of(23, 7) == Point(3, 2, 7)
    assert [Point.of(23, 7).n_call(n) for n in (7, 14, 3)] == [23, 46, 9]
    assert [Point.parse(text) for text in ("epoch-3.old", "epoch-", "3", "epoch-3-call-1")] == [None] * 4


def test_best_and_last_are_kept(tmp_path: Path) -> None:
    """An earlier one of equal metric stays the best; where none was validated, the last one is."""
    checkpoints = write(tmp_path, about(1), about(2), keep=1)
    assert names(checkpoints) == ["epoch-2"]
    assert checkpoints.pick(BEST).path.name == "epoch-2"
    for epoch, metric in ((3, 0.5), (4, None), (5, 0.5), (6, 0.1), (7, None)):
        checkpoints.write(about(epoch, metric=metric), parts(), range(2), keep=2)
    assert names(checkpoints) == ["epoch-3", "epoch-6", "epoch-7"]
    assert checkpoints.pick(BEST).path.name == "epoch-3"
    assert checkpoints.pick().path.name == "epoch-7"


def test_what_is_later_goes_where_a_run_goes_on(tmp_path: Path) -> None:
    checkpoints = write(tmp_path, about(1), about(2), about(2, 3), about(3))
    checkpoints.tidy(Point(4, 0, 2))  # two epochs, by another number of calls
    assert names(checkpoints) == ["epoch-1", "epoch-2", "epoch-2-call-3-of-4", "epoch-3"]
    checkpoints.tidy(Point(2, 0, 9))
    assert names(checkpoints) == ["epoch-1", "epoch-2"]


@pytest.mark.parametrize("left", [".epoch-2.part", ".epoch-2.removed", ".epoch-1.old"])
def test_what_broken_writers_leave(left: str, tmp_path: Path) -> None:
    checkpoints = write(tmp_path, about(1))
    shutil.copytree(tmp_path / "epoch-1", tmp_path / left)
    assert names(checkpoints) == ["epoch-1"]
    assert checkpoints.pick(BEST).about == about(1)
    checkpoints.tidy()
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-1"]


def test_hidden_files_of_the_system_are_left_alone(tmp_path: Path) -> None:
    checkpoints = write(tmp_path, about(1))
    left = [".nfs0001", "._epoch-1", ".DS_Store"]
    for name in left:
        (tmp_path / name).touch()
    checkpoints.tidy()
    assert {path.name for path in tmp_path.iterdir()} == {*left, "epoch-1"}
    assert names(checkpoints) == ["epoch-1"]


def test_a_replacement_that_was_broken_off_is_undone(tmp_path: Path) -> None:
    checkpoints = write(tmp_path, about(1))
    (tmp_path / "epoch-1").rename(tmp_path / ".epoch-1.old")
    checkpoints.tidy()
    assert_is(checkpoints.pick(), 0)


def test_one_can_be_replaced(tmp_path: Path) -> None:
    checkpoints = write(tmp_path, about(1), about(1, metric=0.5))
    assert names(checkpoints) == ["epoch-1"]
    assert checkpoints.pick().about.metric == 0.5
    assert_is(checkpoints.pick(), 1)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["params.entity", "relation", "half"])
def test_only_finite_states_are_saved(name: str, number: float, tmp_path: Path) -> None:
    checkpoints = write(tmp_path, about(1))
    bad = parts(1)
    array = bad[name].array.copy()
    array[..., -1] = number
    with pytest.raises(NonFiniteStateError, match=f"{name} holds NaN or infinity"):
        checkpoints.write(about(2), bad | {name: Part(array, bad[name].per_shard)}, range(2))
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-1"]
    assert_is(checkpoints.pick(), 0)


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = write(tmp_path, about(1))

    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    with pytest.raises(OSError, match="No space left") as error:
        checkpoints.write(about(2), parts(1), range(2))
    assert error.value.filename == str(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-1"]
    assert_is(checkpoints.pick(), 0)


def test_processes_write_one_checkpoint(tmp_path: Path) -> None:
    """Each its own shards; the barriers stand for both, the second process running inside the first one's."""
    mine, met = Checkpoints(tmp_path), []
    of_shard = [{name: Part(x[i : i + 1], per_shard) for name, (x, per_shard) in parts().items()} for i in range(2)]

    def barrier_of_first(name: str) -> None:
        met.append(name)
        if name.startswith("folder"):
            mine.write(about(1), of_shard[1], [1], team=Team(1, 2, met.append))

    mine.write(about(1), of_shard[0], [0], team=Team(0, 2, barrier_of_first))
    assert met == [f"{what} of epoch-1" for what in ("folder", "folder", "arrays", "arrays")]
    assert_is(mine.pick(), 0)


def test_a_process_that_fails_meets_the_others(tmp_path: Path) -> None:
    met: list[str] = []
    bad = {
        name: Part(np.full_like(x, np.nan), per_shard) for name, (x, per_shard) in parts().items() if name != "count"
    }
    with pytest.raises(FileNotFoundError):
        Checkpoints(tmp_path).write(about(1), parts(), range(2), team=Team(1, 2, met.append))  # there is no folder
    with pytest.raises(NonFiniteStateError):
        Checkpoints(tmp_path).write(about(1), bad, range(2), team=Team(0, 2, met.append))
    with pytest.raises(DataError, match=r"\.1\.json: cannot be read"):  # the other one wrote nothing
        Checkpoints(tmp_path).write(about(1), parts(), range(2), team=Team(0, 2, met.append))
    assert met == [f"{what} of epoch-1" for what in ("folder", "arrays")] * 3
    assert list(tmp_path.iterdir()) == []


# --- damage -----------------------------------------------------------------------------------------------------------


def read_all(folder: Path, which: str = LAST) -> None:
    assert_is(Checkpoints(folder).pick(which), 1)


FILES = sorted(
    ["about.json", "count.npy", "relation.npy"]
    + [f"{name}.{shard}.npy" for name in ("params.entity", "half", "empty") for shard in range(2)]
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, about(1), about(2))
    assert sorted(path.name for path in (tmp_path / "epoch-2").iterdir()) == FILES
    return tmp_path


@pytest.mark.parametrize("name", FILES)
def test_flipped_bits(name: str, folder: Path) -> None:
    """Of any byte: refused by name, with the checkpoint before it, or harmless."""
    file = folder / "epoch-2" / name
    content = file.read_bytes()
    n_refused = 0
    for place in range(len(content)):
        for bit in (0, 5, 7) if len(content) < 200 else (place % 8,):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            file.write_bytes(damaged)
            try:
                read_all(folder)
            except DataError as error:
                n_refused += 1
                assert error.file == file or (name == "about.json" and folder in error.file.parents)  # noqa: PT017
                assert "--checkpoint epoch-1" in str(error)  # noqa: PT017
    assert n_refused > len(content) / 2


@pytest.mark.parametrize("name", FILES)
def test_cut_missing_and_swapped_files(name: str, folder: Path) -> None:
    file = folder / "epoch-2" / name
    content = file.read_bytes()
    for size in (0, 1, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:size])
        if (name, size) == ("about.json", len(content) - 1):
            read_all(folder)  # all but the end of the line
            continue
        with pytest.raises(DataError, match=rf"{file}: .*the one before it: --checkpoint epoch-1"):
            read_all(folder)
    file.unlink()
    with pytest.raises(DataError, match=rf"{file}: cannot be read: No such file.*--checkpoint epoch-1"):
        read_all(folder)
    for other in FILES:
        if other not in (name, "about.json"):
            shutil.copy(folder / "epoch-2" / other, file)
            if "empty" in name and "empty" in other:
                continue  # they are equal
            with pytest.raises(DataError, match=str(file)):
                read_all(folder)
    shutil.copy(folder / "epoch-1" / name, file)
    if name == "count.npy" or "empty" in name:
        read_all(folder)  # the same in both
    else:
        with pytest.raises(DataError, match=str(folder / "epoch-2")):
            read_all(folder)


def test_renamed_folders(folder: Path) -> None:
    (folder / "epoch-2").rename(folder / "epoch-3")
    with pytest.raises(DataError, match=r"epoch-3: the checkpoint in it is epoch-2: the folder was renamed"):
        read_all(folder)
    (folder / "epoch-3").rename(folder / "epoch-2 (copy)")
    with pytest.raises(DataError, match=r"\(copy\): not the name of a checkpoint"):
        read_all(folder)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no checkpoint: the run ended before its first one"):
        Checkpoints(tmp_path / "run" / "checkpoints").pick()
    write(tmp_path, about(1))
    with pytest.raises(DataError, match="holds no checkpoint 'epoch-7'; there are epoch-1"):
        Checkpoints(tmp_path).pick("epoch-7")


def test_checked_documents(tmp_path: Path) -> None:
    content = {"a": [1, 2.5, None], "ü": {"b": "x"}}
    write_checked(tmp_path / "a.json", content)
    assert read_checked(tmp_path / "a.json") == content
    text = (tmp_path / "a.json").read_text()
    for bad in (text.replace("2.5", "2.25"), text.replace('"x"', '"y"'), text[:-5], "[]", "{}", "[" * 100_000, "\x00"):
        (tmp_path / "a.json").write_text(bad)
        with pytest.raises(DataError, match=r"a\.json: damaged"):
            read_checked(tmp_path / "a.json")
