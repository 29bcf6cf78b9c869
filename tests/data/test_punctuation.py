import json

import pytest
import torch

from ssvid.data.narration.punctuation import PUBLISHED, Marks
from ssvid.data.narration.sentences import Marked
from ssvid.errors import UserError
from tests.data.test_datasets import table
from tests.helpers import facts

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "now",
    "cut",
    "##ting",
    "it",
    "don",
    "'",
    "t",
]


@pytest.fixture
def folder(tmp_path):
    """A BERT whose class depends on the token alone: `it` ends a sentence, `cut` has a comma."""
    transformers = pytest.importorskip("transformers")
    table(tmp_path / "vocab.txt", "\n".join(WORDS) + "\n")
    sizes = {
        "hidden_size": len(WORDS),
        "num_attention_heads": 1,
        "num_hidden_layers": 0,
        "intermediate_size": 4,
    }
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        max_position_embeddings=600,
        num_labels=len(PUBLISHED),
        hidden_dropout_prob=0.0,
        **sizes,
    )
    net = transformers.BertForTokenClassification(config)
    with torch.no_grad():
        for part in net.parameters():
            part.zero_()
        net.bert.embeddings.LayerNorm.weight.fill_(1.0)
        net.bert.embeddings.word_embeddings.weight.copy_(torch.eye(len(WORDS)))
        for word, mark in [
            ("it", ".O"),
            ("cut", ",O"),
            ("##ting", "?U"),
            ("now", "OU"),
            ("don", "OO"),
            ("t", "OO"),
        ]:
            net.classifier.weight[PUBLISHED.index(mark), WORDS.index(word)] = 2.0
    net.save_pretrained(tmp_path)
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    return tmp_path


def test_each_word_gets_the_mark_of_its_last_token(folder):
    marks = Marks(folder)
    marked = marks(["now", "cut", "it", "cutting", "don't"])
    assert marked == [Marked("", 1), Marked(",", 1), Marked(".", 1), Marked("?", 2), Marked("", 3)]
    assert marks([]) == []


def test_long_texts_are_cut_in_chunks(folder):
    marks = Marks(folder)
    sizes = []
    inner = marks._classes
    marks._classes = lambda chunk: sizes.append(len(chunk)) or inner(chunk)
    marked = marks(["now", "it"] * 300)
    assert [mark.mark for mark in marked] == ["", "."] * 300 and sizes == [200, 200, 200]


def test_no_mark_is_made_less_likely(folder):
    marks = Marks(folder)
    bias = marks.model.classifier.bias
    with (
        torch.no_grad()
    ):  # of a word that says nothing: no mark 0.55, a full stop 0.45 and the rest nothing
        marks.model.classifier.weight.zero_()
        bias.fill_(-50.0)
        bias[PUBLISHED.index("OO")], bias[PUBLISHED.index(".O")] = 0.2, 0.0
        assert marks(["now"]) == [Marked(".", 1)]
        bias[PUBLISHED.index("OO")] = 2.0  # 0.88 - 0.4 against 0.12
        assert marks(["now"]) == [Marked("", 1)]


def test_other_models_are_refused(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    names = {str(i): f"B-{i}" for i in range(len(PUBLISHED))}
    config |= {"id2label": names, "label2id": {v: int(k) for k, v in names.items()}}
    table(folder / "config.json", json.dumps(config))
    with pytest.raises(UserError, match=facts("B-0", "B-1")):
        Marks(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=facts(str(tmp_path / "empty"))):
        Marks(tmp_path / "empty")
