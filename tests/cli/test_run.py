from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from puna.cli.answer import HALVES, process_started, tell_logprobs
from puna.cli.options import split_model
from puna.errors import UsageError
from puna.request import FinishReason, TokenLogprob
from puna.schemas import JsonSchema
from puna.suggested import suggested
from tests.cli.conftest import THOUGHT, FakeLLM, FakeTokenizer, Puna
from tests.fakes import ByteTokenizer
from tests.models import bpe_tokenizer, random_tensors, tiny_config, write_gguf


def test_the_answer_alone_is_on_stdout_and_statistics_are_on_stderr(fake: FakeLLM, puna: Puna) -> None:
    done = puna("run", "The capital of France?")
    assert (done.code, done.out) == (0, "Paris.\n")
    assert "load " in done.err and "tok/s" in done.err and "first token" in done.err
    assert fake.asked[0][0] == [{"role": "user", "content": "The capital of France?"}]
    assert fake.num_closed == 1


def test_one_word_is_the_prompt_and_two_are_model_and_prompt(fake: FakeLLM, puna: Puna) -> None:
    puna("run", "hi")
    puna("run", "m.gguf", "hi", "--tokenizer", "t.bin", "--threads", "2", "--device", "reference")
    (first, _, _), (second, config, tokenizer) = fake.loaded
    assert (first, second, tokenizer) == (None, "m.gguf", Path("t.bin"))
    assert (config.threads, config.device) == (2, "reference")
    with pytest.raises(UsageError, match="3 words were given"):
        split_model(("a", "b", "c"), "PROMPT")


def test_adapters_are_settings_of_the_model_and_a_request_names_one(
    fake: FakeLLM, puna: Puna, monkeypatch: pytest.MonkeyPatch
) -> None:
    puna("run", "m.gguf", "hi", "--lora", "a=0.5", "--lora", "b", "--lora-modules", "x=c", "--lora-name", "x")
    monkeypatch.setenv("PUNA_LORA_MODULES", "y=d,z=e")
    puna("run", "m.gguf", "hi")
    (_, flags, _), (_, variables, _) = fake.loaded
    assert (flags.lora, flags.lora_modules) == (("a=0.5", "b"), ("x=c",))
    assert (variables.lora, variables.lora_modules) == ((), ("y=d", "z=e"))
    assert [params.lora_name for _, params in fake.asked] == ["x", None]


def test_raw_continues_the_text_as_it_is_even_an_empty_one(fake: FakeLLM, puna: Puna) -> None:
    assert puna("run", "m.bin", "--temperature", "0", "--raw", "", "-n", "200").code == 0
    prompt, params = fake.asked[0]
    assert (prompt, params.temperature, params.max_tokens) == ("", 0.0, 200)


def test_a_prompt_comes_from_standard_input(fake: FakeLLM, puna: Puna) -> None:
    puna("run", "--raw", "-", stdin="wörld\n🦙")
    assert fake.asked[0][0] == "wörld\n🦙"


@pytest.mark.parametrize("stdin", ["\udcff", "ok\udcc3"])
def test_standard_input_that_is_not_utf8_is_refused(fake: FakeLLM, puna: Puna, stdin: str) -> None:
    done = puna("run", "-", stdin=stdin)
    assert done.code == 2 and "not UTF-8" in done.err


def test_a_prompt_that_is_not_utf8_is_refused(fake: FakeLLM, puna: Puna) -> None:
    done = puna("run", "\udcff")
    assert done.code == 2 and "not UTF-8" in done.err


def test_a_stop_that_is_not_utf8_is_refused(fake: FakeLLM, puna: Puna) -> None:
    done = puna("run", "hi", "--stop", "a", "--stop", "\udcff")
    assert done.code == 2 and "--stop is not UTF-8" in done.err


def test_no_first_token_is_told_where_there_was_none(fake: FakeLLM, puna: Puna) -> None:
    fake.answer = ()
    assert "first token" not in puna("run", "hi").err
    stats = json.loads(puna("run", "hi", "--json").out)["stats"]
    assert stats["time_to_first_token_s"] is None and stats["first_token_after_process_start_s"] is None


def test_more_threads_than_cores_are_told(fake: FakeLLM, puna: Puna, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puna.resources.usable_cores", lambda: 2)
    assert "256 threads on 2 cores" in puna("run", "hi", "--threads", "256").err
    assert "cores" not in puna("run", "hi", "--threads", "2").err


def test_every_sampling_flag_arrives(fake: FakeLLM, puna: Puna) -> None:
    flags = "--temperature 0.5 --top-k 3 --top-p 0.9 --min-p 0.1 --repetition-penalty 1.1"
    flags += " --presence-penalty 0.2 --frequency-penalty 0.3 --timeout 2.5"
    flags += (
        " --logit-bias 5=-2.5 --logit-bias 6=1 --seed 7 --stop a --stop bb --stop-id 2 --stop-id 3 --ignore-eos --logprobs 2 -n 9"
    )
    assert puna("run", "hi", *flags.split()).code == 0
    p = fake.asked[0][1]
    assert (p.temperature, p.top_k, p.top_p, p.min_p, p.seed, p.max_tokens) == (0.5, 3, 0.9, 0.1, 7, 9)
    assert (p.repetition_penalty, p.presence_penalty, p.frequency_penalty, p.timeout) == (1.1, 0.2, 0.3, 2.5)
    assert (p.logit_bias, p.stop, p.stop_ids, p.ignore_eos, p.logprobs) == ({5: -2.5, 6: 1.0}, ("a", "bb"), (2, 3), True, 2)


def test_every_flag_of_llama_cpps_samplers_arrives(fake: FakeLLM, puna: Puna) -> None:
    flags = "--temperature 0.5 --typical-p 0.8 --top-n-sigma 2 --xtc-probability 0.4 --xtc-threshold 0.2 --dynatemp-range 0.3"
    flags += " --dynatemp-exponent 2 --mirostat-tau 4 --mirostat-eta 0.2 --adaptive-target 0.3 --adaptive-decay 0.8"
    flags += " --penalty-last-n 64"
    flags += " --dry-multiplier 0.7 --dry-base 1.5 --dry-allowed-length 3 --dry-penalty-last-n -1 --dry-sequence-breaker x"
    flags += " --dry-sequence-breaker yz --banned-string no --bad-words-ids 3,4 --bad-words-ids 5 --samplers temp;top-k;typical"
    assert puna("run", "hi", *flags.split()).code == 0
    p = fake.asked[0][1]
    assert (p.typical_p, p.top_n_sigma, p.xtc_probability, p.xtc_threshold) == (0.8, 2.0, 0.4, 0.2)
    assert (p.dynatemp_range, p.dynatemp_exponent, p.mirostat, p.mirostat_tau, p.mirostat_eta) == (0.3, 2.0, 0, 4.0, 0.2)
    assert (p.adaptive_target, p.adaptive_decay, p.penalty_last_n, p.samplers) == (
        0.3,
        0.8,
        64,
        ("temperature", "top_k", "typ_p"),
    )
    assert (p.dry_multiplier, p.dry_base, p.dry_allowed_length, p.dry_penalty_last_n) == (0.7, 1.5, 3, -1)
    assert (p.dry_sequence_breakers, p.banned_strings, p.bad_words_ids) == (("x", "yz"), ("no",), ((3, 4), (5,)))
    assert puna("run", "hi", "--mirostat", "2", "--temperature", "1").code == 0 and fake.asked[1][1].mirostat == 2


def test_a_constraint_arrives_from_a_flag_or_a_file(fake: FakeLLM, puna: Puna, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"type": "integer"}', "utf-8")
    (tmp_path / "g.gbnf").write_text('root ::= "é"', "utf-8")
    for flag, name, value in [
        (["--json-schema", str(tmp_path / "s.json")], "json_schema", JsonSchema('{"type": "integer"}')),
        (["--json-schema", '{"type":"integer"}'], "json_schema", JsonSchema('{"type": "integer"}')),
        (["--json-object"], "json_object", True),
        (["--regex", "a+"], "regex", "a+"),
        (["--choice", "yes", "--choice", "no"], "choice", ("yes", "no")),
        (["--grammar", str(tmp_path / "g.gbnf")], "grammar", 'root ::= "é"'),
        (["--grammar", 'root ::= "a"'], "grammar", 'root ::= "a"'),
        (["--grammar", 'start: "a" | "b"'], "grammar", 'start: "a" | "b"'),
    ]:
        assert puna("run", "hi", *flag).code == 0
        assert getattr(fake.asked[-1][1], name) == value


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--json-schema", "no.json"], "--json-schema no.json cannot be read: No such file or directory"),
        (["--json-schema", ""], "--json-schema is empty\nGive the path of a file."),
        (["--grammar", "no.gbnf"], "--grammar no.gbnf cannot be read: No such file or directory"),
        (
            ["--grammar", "yes or no"],
            "--grammar yes or no cannot be read: No such file or directory\nGive the path",
        ),
        (["--grammar", "x" * 3000], f"--grammar {'x' * 80} ... cannot be read: "),
        (["--json-schema", "{"], "--json-schema is not JSON"),
        (["--json-schema", '{"uniqueItems": true}'], "--json-schema has 'uniqueItems', which puna cannot enforce"),
        (["--regex", "a", "--choice", "b"], "--regex and --choice are given; an answer follows one of them"),
    ],
)
def test_a_constraint_that_cannot_be_is_refused_before_anything_is_loaded(
    fake: FakeLLM, puna: Puna, flags: list[str], told: str
) -> None:
    done = puna("run", "hi", *flags)
    assert (done.code, fake.loaded) == (2, []) and done.err.startswith(f"puna: {told}")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("-n 0", "-n (--max-tokens) is 0; a whole number in 1..134217728 is needed"),
        ("-n -3", "-n (--max-tokens) is -3; a whole number in 1..134217728 is needed"),
        ("-n 99999999999", "-n (--max-tokens) is 99999999999; a whole number in 1..134217728 is needed"),
        ("-n many", "-n (--max-tokens) is 'many'; a whole number in 1..134217728 is needed"),
        ("-n 3.5", "-n (--max-tokens) is '3.5'; a whole number in 1..134217728 is needed"),
        ("-n=5", "-n (--max-tokens) is '=5'; a whole number in 1..134217728 is needed\nWrite -n 5."),
        ("-n=", "-n (--max-tokens) is '='; a whole number in 1..134217728 is needed\nWrite -n N."),
        ("--temperature hot", "--temperature is 'hot'; a finite number in 0.0..100.0 is needed"),
        ("--top-p nan", "--top-p is nan; a finite number in 0.0..1.0 is needed"),
        ("--temperature 1e400", "--temperature is 1e400; a finite number in 0.0..100.0 is needed"),
        ("--temperature 1e-400", "--temperature is '1e-400'; a finite number in 0.0..100.0 is needed"),
        ("--temperature 1_0", "--temperature is '1_0'; a finite number in 0.0..100.0 is needed"),
        ("--top-p 18446744073709551615", "--top-p is 18446744073709551615; a finite number in 0.0..1.0 is needed"),
        ("-n 1_0", "-n (--max-tokens) is '1_0'; a whole number in 1..134217728 is needed"),
        ("-n ٥", "-n (--max-tokens) is '٥'; a whole number in 1..134217728 is needed"),
        (f"-n {'9' * 5000}", f"-n (--max-tokens) is {'9' * 13}...{'9' * 14}; a whole number in 1..134217728 is needed"),
        ("--logit-bias 1_0=2", "--logit-bias is '1_0=2'; write ID=BIAS, for example 17=-2.5"),
        ("--logprobs 99", "--logprobs is 99; a whole number in 0..20 is needed"),
        ("--threads x", "--threads is 'x'; a whole number is needed"),
        ("--threads 999", "--threads is 999; it must lie in 0..256"),
        ("--device gpu", "--device is 'gpu'; allowed: auto, cpu, cuda, cuda:1 and so on, torch (PyTorch on the CPU), reference"),
        ("--kv-type f64", "--kv-type is 'f64'; allowed: auto, bf16, f16, f32, int8"),
        ("--stop-id x", "--stop-id is 'x'; a whole number is needed"),
        ("--xtc-threshold 2", "--xtc-threshold is 2; a finite number in 0.0..1.0 is needed"),
        ("--mirostat 1", "--mirostat is 1; 0 (off) or 2 (mirostat 2) is needed"),
        ("--bad-words-ids 3,x", "--bad-words-ids is '3,x'; write ids with commas between them, for example 17,4"),
        ("--samplers top_k;top_k", "--samplers names 'top_k' twice\nName each filter once."),
    ],
)
def test_a_number_that_cannot_be_is_told_with_what_is_allowed(fake: FakeLLM, puna: Puna, flags: str, told: str) -> None:
    done = puna("run", "hi", *flags.split())
    assert (done.code, done.err, fake.loaded) == (2, f"puna: {told}\n", [])


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--processed-logprobs", "--processed-logprobs needs --logprobs\nAdd --logprobs 0, or the number of top tokens."),
        (
            "--lora-name a",
            "--lora-name is 'a', and the model was loaded without --lora-modules\nLoad it with --lora-modules a=PATH.",
        ),
        ("--num-keep 3", "--num-keep is 3, and --context-shift is off\nAdd --context-shift."),
        (
            "--thinking-budget 3",
            "--thinking-budget is given, and this model does not think: its chat template has no tags for that\n"
            "Leave --thinking-budget out.",
        ),
        ("--suppress-id 9999", "--suppress-id names id 9999; the vocabulary has ids 0..299"),
        ("--stop-id 9999", "stop id 9999 is not in the vocabulary, which has ids 0..299"),
    ],
)
def test_an_error_of_the_library_names_flags(puna: Puna, model: str, flags: str, told: str) -> None:
    done = puna("run", model, "hi", "--raw", "--device", "reference", *flags.split())
    assert done.code == 2 and done.err.endswith(f"puna: {told}\n")


@pytest.mark.parametrize(
    "flags",
    [
        "--temperature -1",
        "--top-p 2",
        "--temperature nan",
        "--logit-bias x",
        "--logit-bias 1=inf",
        "--seed -1",
        "-n -1",
        "--threads 999",
        "--device tpu",
    ],
)
def test_a_bad_value_is_refused_before_anything_is_loaded(fake: FakeLLM, puna: Puna, flags: str) -> None:
    done = puna("run", "hi", *flags.split())
    assert done.code == 2 and fake.asked == [] and done.out == ""


def test_flags_go_over_the_environment(fake: FakeLLM, puna: Puna, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUNA_THREADS", "3")
    monkeypatch.setenv("PUNA_MAX_CONTEXT", "99")
    puna("run", "hi", "--threads", "1")
    config = fake.loaded[0][1]
    assert (config.threads, config.max_context) == (1, 99)


def test_json_is_the_only_line_on_stdout(fake: FakeLLM, puna: Puna) -> None:
    done = puna("run", "hi", "--json", "--logprobs", "1", "--system", "Be brief.")
    facts = json.loads(done.out)
    assert done.out.count("\n") == 1
    assert (facts["text"], facts["finish_reason"], facts["token_ids"]) == ("Paris.", "stop", [0, 1, 2])
    own = {"id": 0, "text": "t0", "bytes": [116], "logprob": -0.5}
    assert facts["logprobs"][0] == own | {"top": [own]}
    assert facts["stats"]["prompt_tokens"] == len("Be brief.hi")
    assert fake.asked[0][0][0] == {"role": "system", "content": "Be brief."}


def test_logprobs_go_to_stderr(fake: FakeLLM, puna: Puna) -> None:
    done = puna("run", "hi", "--logprobs", "1")
    assert done.out == "Paris.\n" and "'t0' -0.5000  | 't0' -0.5000" in done.err


def test_tokens_are_told_as_text_and_parts_of_characters_as_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    half = TokenLogprob(7, -0.5, ((9, -1.0),), "\ufffd", (" ok\n",), b"\xf0\x9f", (b" ok\n",))
    tell_logprobs(SimpleNamespace(logprobs=[half]), ByteTokenizer())  # type: ignore[arg-type]
    assert capsys.readouterr().err == "b'\\xf0\\x9f' -0.5000  | ' ok\\n' -1.0000\n"


def test_an_answer_that_was_cut_says_so(fake: FakeLLM, puna: Puna) -> None:
    fake.reason = FinishReason.LENGTH
    assert puna("run", "hi").err.splitlines()[-1] == "cut after 3 tokens: -n 6 (--max-tokens) allows more"
    fake.plan.max_context = 5
    told = puna("run", "hi").err.splitlines()[-1]
    assert told == "cut: the context is full, 5 of 5 tokens: --max-context 10 allows more"
    fake.model.max_context = 5
    assert puna("run", "hi").err.endswith("the context is full, 5 of 5 tokens, and the model has no larger one\n")


def test_a_sequence_that_failed_ends_with_1(fake: FakeLLM, puna: Puna) -> None:
    fake.reason = FinishReason.ERROR
    done = puna("run", "hi")
    assert done.code == 1 and "logits are not finite" in done.err


def test_a_prompt_that_is_too_long_names_both_numbers(fake: FakeLLM, puna: Puna) -> None:
    done = puna("run", "x" * 2000)
    assert done.code == 2 and "2000" in done.err and "1000" in done.err and done.out == ""


def test_ctrl_c_in_an_answer_ends_its_line(fake: FakeLLM, puna: Puna) -> None:
    fake.answer = ("Pa", KeyboardInterrupt())
    done = puna("run", "hi")
    assert (done.code, done.out) == (130, "Pa\n")
    assert done.err == "puna: interrupted: the answer ends after 1 token\n"
    fake.answer = (KeyboardInterrupt(),)
    done = puna("run", "hi", "--json")
    assert (done.code, done.out, done.err) == (130, "", "puna: interrupted before the answer began\n")


def test_a_template_and_raw_exclude_each_other(fake: FakeLLM, puna: Puna) -> None:
    assert puna("run", "hi", "--raw", "--system", "x").code == 2


def test_a_built_in_template_replaces_the_models_own(fake: FakeLLM, puna: Puna) -> None:
    assert puna("run", "hi", "--template", "chatml").code == 0
    assert fake.chat_template == "chatml"
    done = puna("run", "hi", "--template", "{{ x }}")
    assert done.code == 2 and "built in are: llama2, llama3, chatml" in done.err


@pytest.mark.parametrize(("token", "name"), [("<|im_start|>", "chatml"), ("<|start_header_id|>", "llama3")])
def test_a_guessed_template_is_told_once(fake: FakeLLM, puna: Puna, token: str, name: str) -> None:
    fake.tokenizer = FakeTokenizer(token)
    words = f"no chat template in the model; using {name} (--template names another)"
    assert puna("run", "hi").err.count(words) == 1
    assert puna("chat", stdin="hi\nmore\n").err.count(words) == 1
    for flags in (("--raw",), ("--template", "llama2")):
        assert "no chat template" not in puna("run", "hi", *flags).err
        fake.chat_template = None
    fake.chat_template = "{{ messages }}"
    assert "no chat template" not in puna("run", "hi").err


def test_where_no_built_in_fits_nothing_is_told_as_used(fake: FakeLLM, puna: Puna) -> None:
    assert "no chat template" not in puna("run", "hi").err


def test_the_process_began_before_now() -> None:
    import time

    assert 0 <= time.perf_counter() - process_started() < 3600


def test_a_model_without_a_prompt_is_not_asked_of_another_model(
    fake: FakeLLM, puna: Puna, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "my model.gguf").write_bytes(b"GGUF")
    (tmp_path / "notes").write_text("a file that is no model")
    for word in ("m.gguf", "nosuch.BIN", "folder", "my model.gguf", "hf:owner/repo", "smollm2-135m-instruct", "."):
        done = puna("run", word)
        assert done.code == 2 and f"{word} is a model, and the PROMPT is missing" in done.err, word
    assert puna("tokenize", "m.gguf").code == 2
    for word in ("hello", "notes", "What is in m.gguf?", "3.5", "a/b"):
        assert puna("run", word).code == 0, word


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_an_empty_question_is_refused(prompt: str, fake: FakeLLM, puna: Puna) -> None:
    assert "the question is empty" in puna("run", prompt).err
    done = puna("run", "-", stdin=prompt)
    assert done.code == 2 and "the question is empty" in done.err and not fake.asked


# ---- several answers -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    config = tiny_config()
    path = tmp_path_factory.mktemp("run") / "m.gguf"
    return str(write_gguf(path, config, random_tensors(config, 1), "F32", bpe_tokenizer(config.vocab_size)))


SEVERAL = ("--raw", "--device", "reference", "--temperature", "1", "--seed", "3", "-n", "6", "--ignore-eos")


def test_n_answers_come_under_their_numbers_and_in_json_as_choices(puna: Puna, model: str) -> None:
    done = puna("run", model, "the day", *SEVERAL, "--n", "3")
    facts = json.loads(puna("run", model, "the day", *SEVERAL, "--n", "3", "--json").out)
    assert done.code == 0 and [len(one["token_ids"]) for one in facts["choices"]] == [6, 6, 6]
    assert done.out == "".join(
        f"[{number} of 3]\n{one['text'].rstrip(HALVES)}\n" for number, one in enumerate(facts["choices"], 1)
    )
    assert "answer 18 tokens" in done.err and facts["stats"]["output_tokens"] == 18
    first = json.loads(puna("run", model, "the day", *SEVERAL, "--json").out)
    assert "choices" not in first and first["token_ids"] == facts["token_ids"] == facts["choices"][0]["token_ids"]


def test_best_of_prints_the_most_likely_answer_alone(puna: Puna, model: str) -> None:
    best = json.loads(puna("run", model, "the day", *SEVERAL, "--best-of", "4", "--json").out)
    assert puna("run", model, "the day", *SEVERAL, "--best-of", "4").out == best["text"].rstrip(HALVES) + "\n"
    assert len(json.loads(puna("run", model, "the day", *SEVERAL, "--best-of", "4", "--n", "2", "--json").out)["choices"]) == 2
    assert "--best-of is 1, which is less than --n 2\n" in puna("run", "hi", "--n", "2", "--best-of", "1").err


# ---- what the model's files suggest, and variables of its template --------------------------------------------------------

SUGGESTED = suggested({"do_sample": True, "temperature": 0.6, "top_k": 20, "num_beams": 2}, "generation_config.json", 100, 100)


def test_flags_win_over_what_the_model_suggests_and_that_over_the_defaults(fake: FakeLLM, puna: Puna) -> None:
    fake.suggested = SUGGESTED
    done = puna("run", "hi")
    assert (fake.asked[-1][1].temperature, fake.asked[-1][1].top_k, fake.asked[-1][1].max_tokens) == (0.6, 20, 256)
    told = " ".join(done.err.split())
    assert "sampling as generation_config.json suggests: temperature 0.6, top_k 20; --sampling-defaults puna" in told
    assert "not applied of generation_config.json: num_beams 2" in told
    done = puna("run", "hi", "--temperature", "0", "--top-k", "0")
    assert (fake.asked[-1][1].temperature, fake.asked[-1][1].top_k) == (0.0, 0)
    assert "suggests" not in done.err
    assert puna("run", "hi", "--sampling-defaults", "puna").code == 0 and fake.loaded[-1][1].sampling_defaults == "puna"
    assert puna("run", "hi", "--sampling-defaults", "mine").code == 2


def test_json_carries_the_texts_of_the_ids_and_the_stop_reason(fake: FakeLLM, puna: Puna) -> None:
    facts = json.loads(puna("run", "hi", "--json").out)
    assert facts["token_texts"] == ["t0", "t1", "t2"] and facts["stop_reason"] is None
    assert facts["token_ids"] == [0, 1, 2]


def test_template_args_are_read_as_json_else_as_text(fake: FakeLLM, puna: Puna) -> None:
    flags = ["--template-arg", "enable_thinking=false", "--template-arg", "effort=high", "--template-arg", 'x={"a": [1]}']
    assert puna("run", "hi", *flags, "--template-arg", "y=a=b").code == 0
    assert fake.template_args == {"enable_thinking": False, "effort": "high", "x": {"a": [1]}, "y": "a=b"}


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("thinking", "NAME=VALUE is needed"),
        ("messages=[]", "puna sets itself"),
        ("a-b=1", "the name of a variable"),
        ("=1", "name"),
    ],
)
def test_a_template_arg_that_cannot_be_is_refused_before_anything_is_loaded(
    fake: FakeLLM, puna: Puna, flag: str, words: str
) -> None:
    done = puna("run", "hi", "--template-arg", flag)
    assert done.code == 2 and words in done.err and fake.loaded == []
    done = puna("run", "--raw", "hi", "--template-arg", "a=1")
    assert done.code == 2 and "no effect" in done.err and fake.loaded == []


def test_a_flag_that_changes_no_greedy_answer_is_told(fake: FakeLLM, puna: Puna) -> None:
    assert "--top-p has no effect at temperature 0: sampling is greedy" in puna("run", "hi", "--top-p", "0.9", "--seed", "1").err


def test_a_flag_of_a_filter_that_does_not_run_is_told(fake: FakeLLM, puna: Puna) -> None:
    hot = ("run", "hi", "--temperature", "1")
    assert "--top-p has no effect beside mirostat" in puna(*hot, "--top-p", "0.9", "--mirostat", "2").err
    assert "--top-p has no effect because samplers does not name top_p" in puna(*hot, "--top-p", "0.9", "--samplers", "temp").err
    assert "--xtc-threshold has no effect without xtc_probability" in puna(*hot, "--xtc-threshold", "0.2").err
    assert "no effect" not in puna(*hot, "--xtc-threshold", "0.2", "--xtc-probability", "0.5", "--seed", "1").err
    assert "no effect" not in puna("run", "hi", "--top-p", "0.9", "--temperature", "1").err


# ---- models that think -----------------------------------------------------------------------------------------------------


def test_reasoning_is_on_stderr_and_the_answer_alone_on_stdout(fake: FakeLLM, puna: Puna) -> None:
    fake.answer = (f"{THOUGHT}Hm, ", f"{THOUGHT}well.", "No", ".")
    done = puna("run", "hi")
    assert done.out == "No.\n" and done.err.startswith("Hm, well.\n\n")
    quiet = puna("run", "hi", "--json")
    assert "Hm" not in quiet.err
    facts = json.loads(quiet.out)
    assert (facts["text"], facts["reasoning"]) == ("No.", "Hm, well.")


def test_an_answer_that_ends_within_the_reasoning_is_told(fake: FakeLLM, puna: Puna) -> None:
    fake.answer, fake.reason = (f"{THOUGHT}Hm, ", f"{THOUGHT}well, "), FinishReason.LENGTH
    done = puna("run", "hi")
    assert done.out == "\n" and "the model was still thinking: 2 tokens" in done.err


def test_thinking_is_turned_off_where_the_template_has_a_switch(fake: FakeLLM, puna: Puna) -> None:
    fake.chat_template = "{{ enable_thinking }}<think>"
    assert puna("run", "hi", "--no-thinking", "--template-arg", "x=1").code == 0
    assert fake.template_args == {"x": 1, "enable_thinking": False}
    fake.chat_template = "{{ messages }}<think>"
    done = puna("run", "hi", "--no-thinking")
    assert done.code == 2 and "no switch for thinking" in done.err and "--thinking-budget 0" in done.err
    assert puna("run", "hi", "--thinking-budget", "7").code == 0 and fake.asked[-1][1].thinking_budget == 7
