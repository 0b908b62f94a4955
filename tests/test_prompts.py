from pathlib import Path

import pytest

from specdec.chat import ChatMessage
from specdec.errors import UsageError
from specdec.prompts import Prompt, read_prompts

BENCHMARKS = Path(__file__).parent.parent / "benchmarks" / "prompts"


def write(tmp_path: Path, data: str | bytes) -> Path:
    path = tmp_path / "p.jsonl"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def test_a_line_sets_what_it_names_and_leaves_the_rest(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '{"prompt": "a\\n🙂"}\n'
        "\n"
        '{"id": "x", "prompt": "", "max_new_tokens": 5, "seed": 9223372036854775808,'
        ' "stop": "end", "temperature": 1, "top_k": 40, "top_p": 0.9, "min_p": 0.05,'
        ' "log_probs": true}\r\n'
        '{"id": 7, "stop": [], "messages": [{"role": "user", "content": "hi"}]}',
    )
    assert list(read_prompts(path)) == [
        Prompt(id="1", text="a\n🙂"),
        Prompt(
            id="x",
            text="",
            max_new_tokens=5,
            seed=2**63,
            stop=("end",),
            temperature=1.0,
            top_k=40,
            top_p=0.9,
            min_p=0.05,
            log_probs=True,
        ),
        Prompt(id="7", messages=(ChatMessage("user", "hi"),), stop=()),
    ]


def test_results_show_a_chat_as_lines() -> None:
    chat = (ChatMessage("system", "brief"), ChatMessage("user", "hi"))
    assert Prompt(id="1", messages=chat).shown_text == "system: brief\nuser: hi"
    assert Prompt(id="1", text="plain").shown_text == "plain"


OK = '{"prompt": "x"}\n'


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "no prompts in it; give one"),
        ("\n \n", "no prompts in it"),
        (OK + '{"prompt": "x"', r"p.jsonl:2: not JSON at column 15 \(Expecting ',' delimiter\)"),
        ("\ufeff" + OK, "p.jsonl:1: not JSON at column 1"),
        ("[" * 100_000, "p.jsonl:1: JSON that cannot be read"),
        ('{"seed": ' + "9" * 5000 + "}", "p.jsonl:1: JSON that cannot be read"),
        (OK + '"x"', 'p.jsonl:2: the line is "x"; legal is an object'),
        ("[1]", r"p.jsonl:1: the line is \[1\]; legal is an object"),
        ("{}", "p.jsonl:1: found neither of 'prompt' and 'messages'; legal is one"),
        ('{"prompt": "x", "messages": []}', "found both of 'prompt' and 'messages'"),
        ('{"prompt": 3}', "p.jsonl:1: prompt is 3; legal is text"),
        ('{"prompt": null}', "prompt is null; legal is text"),
        (
            '{"max_new_token": 1}',
            "p.jsonl:1: unknown key 'max_new_token'; did you mean 'max_new_tokens'",
        ),
        ('{"prompt": "x", "zzz": 1}', "unknown key 'zzz'; legal: prompt, messages, id, kind, stop"),
        ('{"prompt": "x", "id": true}', "id is true; legal is text or a whole number"),
        ('{"prompt": "x", "id": ""}', 'id is ""; legal is text or a whole number'),
        (OK + '{"prompt": "y", "id": "1"}', "p.jsonl:2: id '1' occurs twice"),
        ('{"prompt": "x", "stop": ""}', 'stop is ""; legal is text or a list'),
        ('{"prompt": "x", "stop": ["a", 1]}', r'stop is \["a", 1\]; legal is text or a list'),
        ('{"prompt": "x", "seed": -1}', "p.jsonl:1: sampling.seed is -1; legal: 0 to"),
        ('{"prompt": "x", "seed": 1.5}', "sampling.seed is 1.5; it must be"),
        ('{"prompt": "x", "max_new_tokens": 0}', "run.max_new_tokens is 0; legal: 1 to"),
        ('{"prompt": "x", "temperature": "hot"}', "sampling.temperature is 'hot'; it must be"),
        ('{"prompt": "x", "presence_penalty": 1}', "unknown key 'presence_penalty': not supported"),
        ('{"prompt": "x", "log_probs": 1}', "sampling.log_probs is 1; it must be of type true or"),
        ('{"prompt": "x", "temperature": NaN}', "sampling.temperature is nan; legal: 0"),
        ('{"prompt": "x", "top_p": true}', "sampling.top_p is True; it must be"),
        ('{"prompt": "x", "top_k": 2.0}', "sampling.top_k is 2.0; it must be"),
        ('{"messages": []}', r"messages is \[\]; legal is a list"),
        ('{"messages": ["x"]}', r"messages\[0\] is \"x\"; legal is an object"),
        ('{"messages": [{"role": "user"}]}', r"messages\[0\] is .*; legal is an object"),
        (
            '{"messages": [{"role": "user", "content": 1}]}',
            r"messages\[0\].content is 1; legal is text",
        ),
        (b'{"prompt": "x"}\n{"prompt": "\xff"}', "p.jsonl:2: byte 0xff at offset 12 is not UTF-8"),
    ],
)
def test_a_bad_line_is_named_with_what_was_found_and_what_is_legal(
    tmp_path: Path, data: str | bytes, message: str
) -> None:
    with pytest.raises(UsageError, match=message) as error:
        read_prompts(write(tmp_path, data))
    assert "\n" not in str(error.value)


def test_nothing_is_handed_out_of_a_file_with_a_bad_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        read_prompts(write(tmp_path, OK + "{}"))  # raises before the first prompt is asked for


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read prompts"):
        read_prompts(tmp_path / "absent.jsonl")


def test_every_benchmark_file_has_24_prompts_of_its_kind() -> None:
    files = sorted(BENCHMARKS.glob("*.jsonl"))
    assert [path.stem for path in files] == [
        "code",
        "copy_edit",
        "documentation",
        "prose",
        "question_answering",
    ]
    for path in files:
        prompts = list(read_prompts(path))
        assert [p.id for p in prompts] == [f"{path.stem}-{n:02}" for n in range(1, 25)]
        assert len({p.text for p in prompts}) == 24
