"""Tables of PyKEEN, LibKGE and BESS-KGE: scores are those of the libraries, which are recorded."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from shared.commands import train
from shared.golden import MODELS, NOT_ARGUMENTS, SCORE, close, golden
from shared.tables import ENTITIES, RELATIONS, check_scores, graph

import bess_jax as bj
from bess_jax.predict import libkge

# --- PyKEEN -----------------------------------------------------------------------------------------------------------


class Recorded:
    """A layer, or a representation, that gives recorded arrays."""

    def __init__(self, arrays: Any) -> None:
        self.arrays = arrays

    def __call__(self, indices: None) -> Any:
        return self.arrays

    def state_dict(self) -> Any:
        return self.arrays


def recorded_layer(kind: str, arrays: dict[str, np.ndarray]) -> Any:
    running = {"running_mean": None, "eps": 1e-5} if "running_mean" in arrays else {}
    return type(kind, (Recorded,), running)(arrays)


class RecordedModel:
    """Stands for the PyKEEN model whose numbers were recorded."""

    def __init__(self, case: str) -> None:
        file = golden("tables")
        config = file.cases[case]
        arrays = {name: file[f"{case}/{name}"] for name in sorted(file.below(case))}
        self.training, self.use_inverse_triples = True, config["use_inverse_triples"]
        self.modes: list[bool] = []
        self.relation_inverter = type("DefaultRelationInverter", (), {})()
        self.expected = {name: arrays[name] for name in ("score", "head_score") if name in arrays}
        self.entity_representations, self.relation_representations = (
            [Recorded(arrays[name]) for name in arrays if name.startswith(f"{what}_")]
            for what in ("entity", "relation")
        )
        self.interaction = type(config["interaction"], (SimpleNamespace,), {})(**config["attributes"])
        if "layers" in config:
            layers = []
            for i, kind in enumerate(config["layers"]):
                start = f"layer_{i}."
                own = {name.removeprefix(start): arrays[name] for name in arrays if name.startswith(start)}
                layers.append(recorded_layer(kind, own))
            self.interaction.hr2d, self.interaction.hr1d = (
                layers[: config["n_layer_2d"]],
                layers[config["n_layer_2d"] :],
            )
            self.interaction.shape_info = SimpleNamespace(**config["shape_info"])

    def eval(self) -> None:
        self.train(False)

    def train(self, mode: bool) -> None:
        self.modes.append(mode)


FACTORY = SimpleNamespace(
    entity_to_id={name: i for i, name in reversed(list(enumerate(ENTITIES)))},
    relation_to_id={name: i for i, name in enumerate(RELATIONS)},
)
PYKEEN = [case for case, cfg in golden("tables").cases.items() if cfg["library"] == "pykeen"]
LIBKGE = [case for case, cfg in golden("tables").cases.items() if cfg["library"] == "libkge"]


@pytest.mark.parity
@pytest.mark.parametrize("case", PYKEEN)
def test_pykeen(case: str) -> None:
    model = RecordedModel(case)
    tables = bj.from_pykeen(model, FACTORY)
    assert model.modes == [False, True]  # no dropout, and then as it was
    assert tables.inverse_relations == model.use_inverse_triples
    assert tables.entity.dtype == tables.relation.dtype == np.float32
    check_scores(tables, model.expected, n_shard=2 if "inverse" in case else 1)


def test_pykeen_without_names_goes_by_ids() -> None:
    model = RecordedModel("pykeen_ComplEx_inverse")
    predictor = bj.from_pykeen(model).predictor(graph())
    found = [predictor.score([("e1", "r2", "e4")]).columns["score"][0], model.expected["score"][1, 2, 4]]
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    with pytest.raises(ValueError, match="the graph has 6 entities, but the tables have 7, and no names"):
        bj.from_pykeen(model).of(graph(ENTITIES[:6]))


@pytest.mark.parametrize(
    ("case", "change", "message"),
    [
        ("TransE_p1", {"p": 3}, "p must be 1 or 2 here, and the interaction has p=3"),
        ("TransE_p2", {"power_norm": True}, "power_norm=True: the interaction takes the square of the 2-norm"),
        ("BoxE_p2_inverse", {"power_norm": True}, "power_norm=True"),
    ],
)
def test_pykeen_options_without_counterpart(case: str, change: dict[str, Any], message: str) -> None:
    model = RecordedModel(f"pykeen_{case}")
    vars(model.interaction).update(change)
    with pytest.raises(ValueError, match=message):
        bj.from_pykeen(model)
    assert model.modes == [False, True]


def test_pykeen_models_without_counterpart() -> None:
    model = RecordedModel("pykeen_RotatE")
    model.relation_representations[0].arrays = model.relation_representations[0].arrays * 1.5
    with pytest.raises(ValueError, match="RotatE's relations must have modulus 1, but one differs from it by"):
        bj.from_pykeen(model)
    model = RecordedModel("pykeen_ComplEx_inverse")
    model.relation_inverter = type("BlockRelationInverter", (), {})()
    with pytest.raises(ValueError, match="the inverse relations of BlockRelationInverter are not known here"):
        bj.from_pykeen(model)
    model.entity_representations[0].arrays = model.entity_representations[0].arrays.real
    with pytest.raises(ValueError, match="rows must be complex numbers, got float32 and complex64"):
        bj.from_pykeen(model)
    model.interaction = type("TransRInteraction", (), {})()
    with pytest.raises(ValueError, match="interaction TransRInteraction has no counterpart here; there are TransE, "):
        bj.from_pykeen(model)
    with pytest.raises(ValueError, match="PyKEEN's object with interaction NoneType has no counterpart here"):
        bj.from_pykeen(object())


# --- LibKGE -----------------------------------------------------------------------------------------------------------


def checkpoint_of(case: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    file = golden("tables")
    arrays = {name: file[f"{case}/{name}"] for name in sorted(file.below(case))}
    state = {name.removeprefix("state."): array for name, array in arrays.items() if name.startswith("state.")}
    expected = {name: arrays[name] for name in ("score", "head_score")}
    return {"model": (state, {}), "config": SimpleNamespace(options=file.cases[case]["options"])}, expected


@pytest.mark.parity
@pytest.mark.parametrize("case", LIBKGE)
def test_libkge(case: str) -> None:
    checkpoint, expected = checkpoint_of(case)
    check_scores(bj.from_libkge(checkpoint, ENTITIES, RELATIONS), expected)


def test_libkge_names_and_forms() -> None:
    """Names of a package, plain options in place of a config, and keys of old checkpoints."""
    checkpoint, expected = checkpoint_of("libkge_reciprocal_complex")
    state, _ = checkpoint["model"]
    old = {key.replace("._embeddings.", ".embeddings."): value for key, value in state.items()}
    names = {"entity_ids": ENTITIES, "relation_ids": RELATIONS}
    forms: list[dict[str, Any]] = [
        checkpoint | {"dataset": {"meta": names}},
        {"model": old, "config": checkpoint["config"].options, "dataset": {"meta": names}},
    ]
    for form in forms:
        check_scores(bj.from_libkge(form), expected)


def test_libkge_models_without_counterpart() -> None:
    checkpoint, _ = checkpoint_of("libkge_transe_p1")
    options = checkpoint["config"].options
    for change, message in (
        ({"model": "rescal"}, "LibKGE's rescal has no counterpart here; there are complex, distmult"),
        ({"transe": {**options["transe"], "l_norm": 3.0}}, "l_norm must be 1 or 2 here, and the model has 3.0"),
    ):
        with pytest.raises(ValueError, match=message):
            bj.from_libkge(checkpoint | {"config": options | change})
    with pytest.raises(ValueError, match="its embedder is no lookup_embedder"):
        bj.from_libkge(checkpoint | {"model": ({}, {})})
    with pytest.raises(ValueError, match="checkpoint must hold 'config', as LibKGE's do, got 'model'"):
        bj.from_libkge({"model": ({}, {})})
    checkpoint, _ = checkpoint_of("libkge_reciprocal_conve")
    options = checkpoint["config"].options
    with pytest.raises(ValueError, match="padding must be 0 here, and the model has 1"):
        bj.from_libkge(checkpoint | {"config": options | {"conve": {**options["conve"], "padding": 1}}})


def test_libkge_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is read by PyTorch without what runs code; where that refuses, the message tells what to do."""
    checkpoint, expected = checkpoint_of("libkge_complex")
    asked: list[Any] = []

    class UnpicklingError(Exception):
        pass

    def load(file: Path, **options: Any) -> Any:
        asked.append((file, options))
        if file.name == "config.pt":
            raise UnpicklingError("Weights only load failed: kge.config.Config\nand more")
        return checkpoint if file.name == "plain.pt" else [1, 2]

    torch = ModuleType("torch")
    torch.load, torch.serialization = load, SimpleNamespace(pickle=SimpleNamespace(UnpicklingError=UnpicklingError))  # type: ignore[attr-defined]
    monkeypatch.setattr(libkge, "require", lambda module, extra, what: torch)
    for name in ("plain.pt", "config.pt", "list.pt"):
        (tmp_path / name).write_bytes(b"")
    check_scores(bj.from_libkge(str(tmp_path / "plain.pt"), ENTITIES, RELATIONS), expected)
    assert asked == [(tmp_path / "plain.pt", {"map_location": "cpu", "weights_only": True})]
    with pytest.raises(bj.DataError, match=r"config.pt: damaged, or PyTorch does .* write a plain one: c = kge"):
        bj.from_libkge(tmp_path / "config.pt")
    with pytest.raises(bj.DataError, match="expected a checkpoint, a dictionary, got a list"):
        bj.from_libkge(tmp_path / "list.pt")
    with pytest.raises(bj.DataError, match=r"nowhere\.pt: cannot be read"):
        bj.from_libkge(tmp_path / "nowhere.pt")


# --- BESS-KGE ---------------------------------------------------------------------------------------------------------


def besskge_state(model: str, case: str) -> tuple[dict[str, Any], dict[str, Any], bj.Sharding, np.ndarray, np.ndarray]:
    """State and options of a recorded score function, sharding of its entities, triples, and their scores.

    The recorded heads are entities 0, 1, ..., and the tails those after them.
    """
    file = golden(f"scoring_{model}")
    cfg = file.cases[case]
    z = {
        name: file[f"{case}/{name}"]
        for name in ("relation_table", "relation_id", "head_emb", "tail_emb", "score_triple")
    }
    entity = np.concatenate([z["head_emb"], z["tail_emb"]])
    sharding = bj.Sharding.create(len(entity), 3, seed=5)
    state = {f"{key}": file[f"{case}/state_{key}"] for key in cfg.get("state_keys", ())}
    state |= {"entity_embedding": bj.shard_table(entity, sharding), "relation_embedding": z["relation_table"]}
    n = len(z["relation_id"])
    triples = np.stack([np.arange(n), z["relation_id"], n + np.arange(n)], axis=1).astype(np.int32)
    options = {key: value for key, value in cfg.items() if key not in NOT_ARGUMENTS}
    return state, options, sharding, triples, z["score_triple"]


BESSKGE = [
    (model, case)
    for model in MODELS
    for case, cfg in golden(f"scoring_{model}").cases.items()
    if not cfg.get("training_mode")
]


@pytest.mark.parametrize(("model", "case"), BESSKGE)
def test_besskge_states(model: str, case: str) -> None:
    state, options, sharding, triples, score = besskge_state(model, case)
    tables = bj.from_besskge(state, sharding, model, **options)
    predictor = tables.predictor(
        graph([f"{i}" for i in range(sharding.n_entity)], [f"{i}" for i in range(5)]), n_shard=2
    )
    close(predictor.score(triples).columns["score"], score, SCORE)


class Module:
    """Stands for a score function of BESS-KGE, with the attributes that it keeps its arguments in."""

    def __init__(self, state: dict[str, Any], sharding: bj.Sharding, **attributes: Any) -> None:
        self.state, self.sharding = state, sharding
        vars(self).update(attributes)

    def state_dict(self) -> dict[str, Any]:
        return self.state


KEPT_AS = {"normalize_entities": "normalize", "embedding_height": "emb_h", "embedding_width": "emb_w"}
BUFFERS = {"u": "rel_u", "offset": "offset"}


@pytest.mark.parametrize("model", MODELS)
def test_besskge_modules(model: str) -> None:
    """A score function tells its options itself, as attributes and buffers; a module of the scheme holds it."""
    case = next(case for name, case in BESSKGE if name == model)
    state, options, sharding, triples, score = besskge_state(model, case)
    state |= {BUFFERS[name]: np.float32([options[name]]) for name in options if name in BUFFERS}
    attributes = {KEPT_AS.get(name, name): value for name, value in options.items() if name not in BUFFERS}
    score_fn = type(model, (Module,), {})(state, sharding, **attributes)
    for module in (score_fn, SimpleNamespace(score_fn=score_fn)):
        tables = bj.from_besskge(module, entities=[f"{i}" for i in range(sharding.n_entity)])
        assert tables.inverse_relations is False
        found = tables.predictor(graph([f"{i}" for i in range(sharding.n_entity)], [f"{i}" for i in range(5)]))
        close(found.score(triples).columns["score"], score, SCORE)


def test_besskge_needs_to_be_told_what_a_state_leaves_out() -> None:
    state, options, sharding, _, _ = besskge_state("TransE", "TransE_p1")
    with pytest.raises(ValueError, match="does not tell its score function and sharding: give model and sharding"):
        bj.from_besskge(state)
    with pytest.raises(ValueError, match=r"score_fn must be a score function of BESS-KGE.*, got str"):
        bj.from_besskge("state.pt")
    with pytest.raises(ValueError, match="give embedding_size, scoring_norm"):
        bj.from_besskge(state, sharding, "TransE")
    with pytest.raises(ValueError, match=r"sharding must be that of the table, \(3, 4\) shards and rows, got \(2, 6\)"):
        bj.from_besskge(state, bj.Sharding.create(12, 2, seed=0), "TransE", **options)
    with pytest.raises(ValueError, match=r"model must be one of .*, got 'TransX'"):
        bj.from_besskge(state, sharding, "TransX", **options)
    with pytest.raises(ValueError, match="or its state, with relation_embedding, got entity_embedding"):
        bj.from_besskge({"entity_embedding": state["entity_embedding"]}, sharding, "TransE", **options)
    state["relation_embedding"] = np.repeat(state["relation_embedding"][:4], 1, axis=0)
    tables = bj.from_besskge(state, sharding, "TransE", inverse_relations=True, **options)
    assert tables.n_relation_type == 2


# --- tables -----------------------------------------------------------------------------------------------------------


def some_tables(**changes: Any) -> bj.Tables:
    rng = np.random.default_rng(0)
    given: dict[str, Any] = {
        "model": "DistMult",
        "options": {"embedding_size": 4},
        "entity": rng.normal(size=(7, 4)).astype(np.float32),
        "relation": rng.normal(size=(6, 4)).astype(np.float32),
        "inverse_relations": True,
        "entities": ENTITIES,
        "relations": RELATIONS,
    }
    return bj.Tables(**given | changes)


def test_tables_of_a_graph() -> None:
    tables = some_tables()
    assert repr(tables) == ("Tables(DistMult, embedding_size=4: 7 entities, 3 relations and as many inverse ones)")
    part = tables.of(graph(["e5", "e0"], ["r2", "r0"]))
    np.testing.assert_array_equal(part.entity, tables.entity[[5, 0]])
    np.testing.assert_array_equal(part.relation, tables.relation[[2, 0, 5, 3]])
    with pytest.raises(ValueError, match="no row for 2 of the 3 entities of the graph: 'x', 'y'"):
        tables.of(graph(["e1", "x", "y"]))
    with pytest.raises(ValueError, match="no row for 1 of the 1 relations of the graph: 'like'"):
        tables.of(graph(relations=["like"]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"entity": np.zeros((7, 3), np.float32)}, r"entity must have shape \(n_entity, E\) = \(\*, 4\), got \(7, 3\)"),
        ({"relation": np.zeros((3, 4), np.float32)}, r"relation must have shape \(n_relation, R\)"),
        ({"entity": np.full((7, 4), np.nan, np.float32)}, "entity must hold finite numbers"),
        ({"entities": ENTITIES[:6]}, "entities must be 7 different names, got 6, 6 different"),
        ({"relations": ["r", "r", "s"]}, "relations must be 3 different names, got 3, 2 different"),
        ({"model": "DistMul"}, "did you mean 'DistMult'"),
    ],
)
def test_bad_tables(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        some_tables(**changes)


def test_a_run_starts_from_saved_tables(nations: Path, tmp_path: Path) -> None:
    dataset = bj.KGDataset.from_folder(nations)
    names = sorted(dataset.entity_dict or ()), sorted(dataset.relation_dict or ())
    rng = np.random.default_rng(0)
    tables = some_tables(
        options={"embedding_size": 16},
        entity=rng.normal(size=(14, 16)).astype(np.float32),
        relation=rng.normal(size=(110, 16)).astype(np.float32),
        entities=names[0],
        relations=names[1],
    )
    tables.save(tmp_path / "start.npz")
    options = ("--model", "DistMult", "--n-epoch", "1", "--learning-rate", "1e-30")
    assert train(nations, tmp_path / "run", *options, "--start-from", str(tmp_path / "start.npz")) == 0
    model = bj.Predictor.load(tmp_path / "run")
    expected = tables.of(model.dataset)
    np.testing.assert_array_equal(model.entity_table().array, expected.entity)
    np.testing.assert_array_equal(model.relation_table().array, expected.relation)
