"""Caches go to a dataset repository while they are made, and come back whole; the hub is a stand-in on loopback."""

import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from cache_cases import cache_config, save_models
from hub_server import serve
from huggingface_hub.errors import HfHubHTTPError

from jog3r.commands.parser import main
from jog3r.data.cache import Cache
from jog3r.training.preparation import hub_copy
from jog3r.training.prepare import Preparation

CUT_EVERY = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    save_models(folder)
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """`hub(cut_every)` is a running stand-in; its repository is the folder tmp_path / "repository"."""
    repository = tmp_path / "repository"
    repository.mkdir()
    monkeypatch.setattr(hub_copy, "_PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda _: None, time=time.time))
    monkeypatch.setattr(hub_copy, "_SECONDS_BETWEEN_COMMITS", -1.0)

    def start(cut_every: int = 0):
        return serve(repository, cut_every)

    def use(address: str) -> Path:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        return repository

    return start, use


def _config(folder: Path, out: Path, **changes):
    return replace(cache_config(folder, num_clips=5, num_frames=4), output_dir=str(out), push_to_hub="me/set", **changes)


def test_a_cache_is_uploaded_as_it_is_made_and_comes_back(folder, tmp_path, hub, capsys):
    start, use = hub
    out, back = tmp_path / "cache", tmp_path / "back"
    with start(CUT_EVERY) as (address, cuts):
        repository = use(address)
        stopped = Preparation(_config(folder, out))
        stopped._finish = lambda: False  # the process ends before the rest is there
        stopped.run()
        stopped.hub.flush()
        assert {"plan.json", "clips-00000.parquet"} <= {path.name for path in repository.iterdir()}
        assert not (repository / "manifest.json").exists()
        (repository / "clips-00001.parquet").unlink(missing_ok=True)  # as if it had not come through
        Preparation(_config(folder, out)).run()
        files = [*json.loads((out / "manifest.json").read_text())["files"], "plan.json", "report.json", "manifest.json"]
        for name in files:
            assert (repository / name).read_bytes() == (out / name).read_bytes(), name
        card = (repository / "README.md").read_text()
        assert "--dataset me/set" in card and "5, and 0 that were skipped" in card and "drawn by code of jog3r" in card
        assert cuts  # some answers were cut off on the way

        assert main(["prepare", "--from_hub", "me/set", "--output_dir", str(back)]) == 0
        assert "5 videos, 20 frames, copied from me/set" in capsys.readouterr().out
        Cache(back).verify()
        (back / "clips-00000.parquet").write_bytes(b"damaged")
        (back / "manifest.json").unlink()
        assert main(["prepare", "--from_hub", "me/set", "--output_dir", str(back)]) == 0
        Cache(back).verify()


def test_what_does_not_belong_together_is_refused(folder, tmp_path, hub, capsys):
    start, use = hub
    with start() as (address, _):
        repository = use(address)
        assert main(["prepare", "--from_hub", "me/set", "--output_dir", str(tmp_path / "x")]) == 2
        assert "is no cache of jog3r" in capsys.readouterr().err
        assert main(["prepare", "--from_hub", "me/set", "--output_dir", "x", "--height", "64"]) == 2
        assert "--from_hub takes --output_dir and nothing else, got height" in capsys.readouterr().err
        (repository / "model.safetensors").write_bytes(b"1")
        with pytest.raises(ValueError, match=r"push_to_hub='me/set' holds other files \(model.safetensors\)"):
            Preparation(_config(folder, tmp_path / "cache"))
        (repository / "plan.json").write_text('{"height": 64}')
        with pytest.raises(ValueError, match="holds a cache of another caption_length: None, now 8"):
            Preparation(_config(folder, tmp_path / "cache"))
        with pytest.raises(ValueError, match="the hub does not give push_to_hub='me/other'"):
            Preparation(replace(_config(folder, tmp_path / "cache"), push_to_hub="me/other"))
    with pytest.raises(ValueError, match="the hub does not give push_to_hub='me/set'"):
        Preparation(_config(folder, tmp_path / "cache"))
    with pytest.raises(ValueError, match="push_to_hub must be OWNER/NAME, got 'set'"):
        replace(_config(folder, tmp_path / "cache"), push_to_hub="set")
    assert not (tmp_path / "cache").exists()


def test_a_cache_of_another_model_is_not_replaced_by_this_one(folder, tmp_path, hub):
    start, use = hub
    with start() as (address, _):
        repository = use(address)
        Preparation(_config(folder, tmp_path / "cache")).run()
        plan = json.loads((repository / "plan.json").read_text())
        plan["vae"]["fingerprint"] = "0" * 64
        (repository / "plan.json").write_text(json.dumps(plan))
        with pytest.raises(ValueError, match=r"push_to_hub='me/set' holds a cache of another vae: .*; name a new repository"):
            Preparation(_config(folder, tmp_path / "another"))


def test_while_shards_of_a_finished_cache_change_it_has_no_manifest(folder, tmp_path, hub):
    start, use = hub
    with start() as (address, _):
        repository = use(address)
        Preparation(_config(folder, tmp_path / "cache")).run()
        (tmp_path / "cache" / "clips-00000.parquet").unlink()
        again = Preparation(_config(folder, tmp_path / "cache"))
        again._finish = lambda: False  # the process ends before the manifest
        again.run()
        again.hub.flush()
        assert not (repository / "manifest.json").exists() and (repository / "clips-00000.parquet").is_file()
        Preparation(_config(folder, tmp_path / "cache")).run()
        assert (repository / "manifest.json").is_file()


@pytest.mark.parametrize(("status", "tries"), [(429, 3), (409, 3), (403, 1), (503, 3)])
def test_a_busy_hub_is_asked_again_and_one_that_refuses_is_not(monkeypatch, status: int, tries: int) -> None:
    monkeypatch.setattr(hub_copy, "_PAUSES", (0.0, 0.0))
    asked = []

    def act() -> None:
        asked.append(status)
        raise HfHubHTTPError("no", response=httpx.Response(status, request=httpx.Request("POST", "http://hub")))

    with pytest.raises(HfHubHTTPError):
        hub_copy._again(act)
    assert len(asked) == tries


def test_a_hub_that_is_gone_at_the_end_leaves_the_cache_and_says_how_to_go_on(folder, tmp_path, hub):
    start, use = hub
    with start() as (address, _):
        repository = use(address)
        preparation = Preparation(_config(folder, tmp_path / "cache"))
    with pytest.raises(ValueError, match="is not all in 'me/set' .*the same command sends the rest"):
        preparation.run()
    Cache(tmp_path / "cache").verify()
    with start() as (address, _):
        use(address)
        Preparation(_config(folder, tmp_path / "cache")).run()
        assert (repository / "manifest.json").is_file()
