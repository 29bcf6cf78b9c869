"""A frozen causal model: what is learnt of a sentence, the loss by hand, and greedy words."""

import pytest
import torch
import torch.nn.functional as F

from ssvid.errors import UserError
from ssvid.text.language import CAPTION, Language, phrase_prompt, split_sentence
from tests.helpers import facts, for_each
from tests.languages import small_nets, write_language, write_vision

SENTENCES = ["red square goes left", "question: what colour ? answer: blue", "red"]


@pytest.fixture(scope="module")
def language() -> Language:
    return Language(small_nets()["language"])


def draw_prefix(language: Language, clips: int = 3, queries: int = 4) -> torch.Tensor:
    return torch.randn(clips, queries, language.dim, generator=torch.Generator().manual_seed(0))


@for_each(
    "sentence, prompt, answer",
    [
        ("  a red square ", CAPTION, "a red square"),
        ("question: what?  answer: a square", "question: what? answer:", "a square"),
        ("Question: what? Answer: red", "question: what? answer:", "red"),
        ("no question: is it answer:", CAPTION, "no question: is it answer:"),
    ],
)
def test_a_pair_has_a_prompt_and_any_other_sentence_is_a_caption(sentence, prompt, answer):
    assert split_sentence(sentence) == (prompt, answer)


def test_the_answer_and_its_end_are_learnt(language):
    words = language.read_sentences(SENTENCES, 8)
    for row, sentence in enumerate(SENTENCES):
        learnt = words.ids[row][words.is_answer[row]].tolist()
        text = language.tokenizer.decode(learnt[:-1])
        assert text == split_sentence(sentence)[1] and learnt[-1] == language.end
    assert words.is_text.sum(1).tolist() == [7, 9, 4]
    cut = language.read_sentences(["red red red red red red"], 4)
    assert cut.is_answer.sum() == 4 and language.end not in cut.ids[cut.is_answer]


def test_the_loss_is_that_of_each_answer_alone(language):
    """Token by token, without padding, and with the library's own embedding of words."""
    prefix = draw_prefix(language)
    words = language.read_sentences(SENTENCES, 8)
    losses = language.score_answers(prefix, words)
    for row in range(len(SENTENCES)):
        n = int(words.is_text[row].sum())
        ids = words.ids[row, :n]
        embedded = language.net.get_input_embeddings()(ids)
        logits = language.net(inputs_embeds=torch.cat([prefix[row], embedded])[None]).logits[0]
        expected = []
        for i in range(n):
            if words.is_answer[row, i]:
                expected.append(F.cross_entropy(logits[4 + i - 1], ids[i]))
        torch.testing.assert_close(losses[row], torch.stack(expected).mean())


def test_words_are_the_likeliest_one_by_one(language):
    prefix = draw_prefix(language)
    texts = language.continue_prefix(prefix, CAPTION, 5)
    for row, text in enumerate(texts):
        ids = language.read_prompt(CAPTION)
        for _ in range(5):
            embedded = language.net.get_input_embeddings()(torch.tensor(ids))
            logits = language.net(inputs_embeds=torch.cat([prefix[row], embedded])[None]).logits
            ids.append(int(logits[0, -1].argmax()))
            if ids[-1] == language.end:
                break
        expected = language.tokenizer.decode(
            ids[len(language.read_prompt(CAPTION)) :], skip_special_tokens=True
        )
        assert text == expected
    assert len(set(texts)) > 1, "the words depend on the clip"


def test_nothing_of_it_learns_and_nothing_drops_out(language):
    assert not any(parameter.requires_grad for parameter in language.parameters())
    prefix, words = draw_prefix(language).requires_grad_(), language.read_sentences(SENTENCES, 8)
    language.train()
    first = language.score_answers(prefix, words)
    assert torch.equal(first, language.score_answers(prefix, words))
    first.sum().backward()
    assert prefix.grad.abs().sum() > 0
    assert language.net.training, "its mode is given back"


def test_a_prompt_begins_as_in_training():
    assert phrase_prompt(None) == CAPTION
    assert phrase_prompt(" what moves? ") == split_sentence("question: what moves? answer: x")[0]


def test_folders_of_something_else_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match=facts("config.json")):
        Language(str(tmp_path))
    with pytest.raises(UserError, match=facts("config.json")):
        Language(write_vision(tmp_path / "run"))
    folder = write_language(tmp_path / "words")
    (tmp_path / "words" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match=facts("AutoModelForCausalLM")):
        Language(folder)


def test_a_model_without_an_end_is_refused(tmp_path):
    import transformers

    folder = write_language(tmp_path / "words")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match=facts("eos_token")):
        Language(folder)


def test_too_many_queries_are_refused(language):
    with pytest.raises(UserError, match=facts("60 queries", "64")):
        language.check_room(60, 5)
    language.check_room(60, 4)
