from pathlib import Path

import pytest

from specdec.config import Config, read_config, with_overrides
from specdec.errors import UsageError


def test_a_file_changes_what_it_names_and_leaves_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('[sampling]\ntemperature = 1\n[draft]\ndevice = "ngram"\n')
    config = read_config(path)
    assert config.sampling.temperature == 1.0
    assert isinstance(config.sampling.temperature, float)
    assert config.draft.device == "ngram"
    assert config.run == Config().run


def test_overrides_apply_in_order_and_strings_need_no_quotes() -> None:
    config = with_overrides(
        Config(), ["draft.device=ngram", "run.max_new_tokens=3", "run.max_new_tokens = 4"]
    )
    assert config.draft.device == "ngram"
    assert config.run.max_new_tokens == 4


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("run.max_tokens=3", "unknown config key 'run.max_tokens'; did you mean 'run.max_new"),
        ("rum.kv=fp16", "did you mean 'run.kv'"),
        ("zzz=1", "unknown config key 'zzz'; legal: target.model, "),
        ("run.max_new_tokens", "expected section.key=value"),
        ("run.max_new_tokens=many", "run.max_new_tokens is 'many'; it must be of type whole num"),
        ("run.max_new_tokens=1.5", "of type whole number"),
        ("run.max_new_tokens=true", "of type whole number"),
        ("run.max_new_tokens=0", "run.max_new_tokens is 0; legal: 1 to"),
        ("run.validation=1", "of type true or false"),
        ("sampling.top_p=0", "sampling.top_p is 0.0; legal"),
        ("sampling.temperature=nan", "sampling.temperature is nan; legal: 0.0 to 100.0"),
        (
            "sampling.logit_bias=1",
            "unknown config key 'sampling.logit_bias': not supported, tokens",
        ),
        ("sampling.temperature=inf", "sampling.temperature is inf"),
        ("sampling.seed=-1", "sampling.seed is -1"),
        (f"sampling.seed={2**64}", "sampling.seed is 18446744073709551616; legal: 0 to"),
        (f"sampling.seed={10**400}", "sampling.seed is 1000"),
        ("speculation.mode=always", "is 'always'; legal: auto, fixed, off"),
        ("draft.device=7", "of type text"),
    ],
)
def test_illegal_settings_name_what_was_found_and_what_is_legal(
    assignment: str, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        with_overrides(Config(), [assignment])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("run = 1", "must be a section"), ("[run", "not TOML"), ("[run]\nkvv='x'", "'run.kv'")],
)
def test_illegal_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_config(path)


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read config"):
        read_config(tmp_path / "none.toml")
    (tmp_path / "bin.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not TOML"):
        read_config(tmp_path / "bin.toml")


def test_the_largest_seed_is_legal() -> None:
    assert with_overrides(Config(), [f"sampling.seed={2**64 - 1}"]).sampling.seed == 2**64 - 1
