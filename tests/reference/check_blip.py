"""BLIP, stage by stage: pictures, the three uses of its text side, losses, gradients, answers."""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from objectives.litevl.retrieval import LiteVLRetrieval
from ssvid import create_encoder
from ssvid.encoder import Encoder
from ssvid.nn.bert import PAD, Context
from ssvid.text import create_tower
from ssvid.text.blip import AnswerDecoder, BlipText
from ssvid.text.matching import join_frame_tokens
from ssvid.text.wordpiece import SPECIAL
from ssvid.weights.blip import LAYOUTS, describe_picture, describe_text
from ssvid.weights.layout import State
from ssvid.weights.published import select_under
from tests.reference.cases import Case, assert_close
from tests.reference.check_xclip import draw

VQA, _, RETRIEVAL, _ = LAYOUTS
MOMENTUM, ALPHA = 0.995, 0.4  # of the case's README
TIED = {  # key -> the key under whose name the rule draws it
    "text_decoder.bert.embeddings.word_embeddings.weight": (
        "text_decoder.cls.predictions.decoder.weight"
    ),
    "text_decoder.cls.predictions.decoder.bias": "text_decoder.cls.predictions.bias",
}
# Array of the case -> our parameter whose gradient it is.
GRADIENTS = {
    "grad_temp": "temperature",
    "grad_itm_head": "matcher.weight",
    "grad_text_proj": "tower.project.weight",
    "grad_cross_q0": "tower.bert.layers.0.cross.q.weight",
    "grad_patch": "encoder.patch.weight",
}
UNCHECKED = {
    name: "an input"
    for name in (
        "image",
        "caption_ids",
        "image_queue",
        "text_queue",
        "idx_queue",
        "idx",
        "question_ids",
        "answer_ids",
        "k_test",
        "train_answer_ids",
        "train_n",
        "train_weights",
    )
}


def recognises(case: Case) -> bool:
    """A case with arrays, or a table of the keys and shapes of published files."""
    if {"itm_logits_enc_first", "vqa_train_loss"} <= case.arrays.keys():
        return True
    return any("BLIP" in str(read(file).keys()) for file in list_files(case))


def list_files(case: Case) -> list[Path]:
    return sorted(case.path.glob("*.json")) if case.path.is_dir() else [case.path]


def read(file: Path) -> dict[str, Any]:
    content = json.loads(file.read_text())
    return content if isinstance(content, dict) else {}


def check(case: Case) -> None:
    tables = [read(file) for file in list_files(case) if not case.arrays]
    for table in tables:
        for name, shapes in table.items():
            if "BLIP" in name:
                check_layout(name, shapes)
    if not case.arrays:
        return
    compared = check_retrieval(case) | check_questions(case)
    missing = case.arrays.keys() - compared - UNCHECKED.keys()
    assert not missing, f"nothing compares {sorted(missing)}"


def check_layout(name: str, shapes: dict[str, list[int]]) -> None:
    """Every key and shape of a published file, read and written back."""
    layout = VQA if "VQA" in name else RETRIEVAL
    theirs: State = {}
    for key, shape in shapes.items():
        theirs[key] = torch.zeros(shape, dtype=torch.int64 if is_number(key) else torch.float32)
    ours = layout.to_ours(theirs)
    with torch.device("meta"):
        encoder = create_encoder("blip_vit", **describe_picture(ours))
    for key, x in encoder.state_dict().items():
        assert ours[f"encoder.{key}"].shape == x.shape
    back = layout.to_theirs(ours)
    expected = dict(shapes)
    for key in shapes:
        if "position_ids" in key:
            del expected[key]
    assert [*back] == [*expected]
    for key, shape in expected.items():
        assert list(back[key].shape) == shape


def is_number(key: str) -> bool:
    return key.endswith(("position_ids", "idx_queue", "ptr_queue"))


def draw_state(case: Case, part: str) -> State:
    """The published state dict of one class, by the rule of the README."""
    state: State = {}
    for key, shape in case.meta["keys"][part].items():
        state[key] = draw(case.meta["seed"], TIED.get(key, key), shape)
    return state


def write_vocabulary(case: Case, folder: Path) -> Path:
    """Pieces of which the special ones have the numbers of the case."""
    count = case.meta["bos"]
    pieces = [f"word{n}" for n in range(count)]
    others = sorted({*range(count)} - {case.meta[name] for name in ("pad", "cls", "sep")})
    numbers = (case.meta["pad"], others[0], case.meta["cls"], case.meta["sep"], others[1])
    for piece, number in zip(SPECIAL, numbers, strict=True):
        pieces[number] = piece
    file = folder / "vocab.txt"
    file.write_text("\n".join(pieces) + "\n")
    return file


def build_tower(case: Case, ours: State, folder: Path) -> BlipText:
    sizes = {**describe_text(ours), "heads": case.meta["config"]["heads"]}
    vocabulary = str(write_vocabulary(case, folder))
    tower = create_tower("blip_text", vocabulary=vocabulary, **sizes)
    assert isinstance(tower, BlipText)
    pieces = tower.pieces
    assert (pieces.decode_first, pieces.ground_first) == (case.meta["bos"], case.meta["enc"])
    return tower


def build_encoder(case: Case, ours: State) -> Encoder:
    sizes = {**describe_picture(ours), "heads": case.meta["config"]["vit_heads"]}
    return create_encoder("blip_vit", **sizes)


def build_retrieval(case: Case, folder: Path) -> LiteVLRetrieval:
    """The objective in the state of the case: nets, momentum nets, queues."""
    arrays, theirs = case.arrays, draw_state(case, "retrieval")
    theirs |= {name: arrays[name] for name in ("image_queue", "text_queue", "idx_queue")}
    theirs |= {"temp": torch.tensor(0.07), "ptr_queue": torch.zeros(1, dtype=torch.int64)}
    ours = RETRIEVAL.to_ours(theirs)
    tower = build_tower(case, ours, folder)
    options = dict(tower.kwargs)
    for name in ("dim", "vocabulary", "context_dim"):
        del options[name]
    options["dropout"] = 0.0
    objective = LiteVLRetrieval(
        build_encoder(case, ours),
        dim=tower.dim,
        words=str(tower.kwargs["vocabulary"]),
        options=options,
        text_pooling="original",
        alpha=ALPHA,
        ramp=0.0,
        momentum=MOMENTUM,
        queue=case.meta["config"]["queue"],
        hard="hardest",
    )
    objective.load_state_dict(ours)
    return objective.train()


def check_retrieval(case: Case) -> set[str]:
    arrays = case.arrays
    with tempfile.TemporaryDirectory() as folder:
        objective = build_retrieval(case, Path(folder))
    ours = {**read_space(case, objective), **run_step(case, objective)}
    for name, x in ours.items():
        kind = "blip_loss" if name.startswith("loss") else "blip_gradient"
        if name.startswith("grad") or name.startswith("loss"):
            assert_close(name, x, arrays[name], kind)
        else:
            assert_close(name, x.to(arrays[name].dtype), arrays[name], "blip")
    return set(ours)


@torch.no_grad()
def read_space(case: Case, objective: LiteVLRetrieval) -> dict[str, Tensor]:
    """What does not depend on the momentum nets. The stand-alone class has the same weights."""
    arrays, space = case.arrays, objective.joint_space()
    features = objective.encoder(arrays["image"][:, :, None])
    tokens = join_frame_tokens(features)
    ids = arrays["caption_ids"]
    texts = F.normalize(space.tower.embed(ids), dim=1)
    grounded = space.tower.ground(ids, Context(tokens.flatten(1, 2)))
    plain = space.tower.bert(ids, Context(tokens.flatten(1, 2)))
    video = space.embed_videos(features.pooled)
    return {
        "image_embeds": tokens.flatten(1, 2),
        "text_hidden_text_mode": space.tower.bert(ids),
        "image_feat": video,
        "text_feat": texts,
        "itc_sim": video @ texts.T,
        "itm_logits_cls_first": space.matcher(plain[:, 0]),
        "itm_logits_enc_first": space.judge(ids, texts, tokens),
        "itm_hidden_enc_first": grounded,
    }


def run_step(case: Case, objective: LiteVLRetrieval) -> dict[str, Tensor]:
    """One step of training, in the published order: the momentum nets move, then all nets run."""
    arrays = case.arrays
    ids = arrays["caption_ids"]
    objective.tower.tokens = lambda sentences: ids  # the case has ids and not sentences
    objective.move_momentum_nets()
    moved = objective.key_head.weight.clone()
    count = len(ids)
    loss = objective(
        {
            "clips": arrays["image"][:, None, :, None],
            "sentences": [[""]] * count,
            "index": arrays["idx"],
            "epoch": torch.zeros(count, dtype=torch.int64),
            "seed": 0,
        }
    )
    loss.total.backward()
    parameters = dict(objective.named_parameters())
    gradients: dict[str, Tensor] = {}
    for name, key in GRADIENTS.items():
        gradient = parameters[key].grad
        assert gradient is not None
        gradients[name] = gradient
    objective.after_step(1.0)
    state = RETRIEVAL.to_theirs(objective.state_dict())
    queues = {f"{name}_after": state[name] for name in ("image_queue", "text_queue", "idx_queue")}
    return {
        "loss_ita": loss.parts["contrast"],
        "loss_itm": loss.parts["matching"],
        **gradients,
        **queues,
        "ptr_after": state["ptr_queue"],
        "vision_proj_m_weight_after": moved.detach(),
    }


def check_questions(case: Case) -> set[str]:
    arrays = case.arrays
    theirs = draw_state(case, "vqa")
    ours = VQA.to_ours(theirs)
    with tempfile.TemporaryDirectory() as folder:
        tower = build_tower(case, ours, Path(folder))
    encoder, decoder = build_encoder(case, ours), AnswerDecoder(tower)
    for net, name in ((encoder, "encoder."), (tower, "tower."), (decoder, "decoder.")):
        net.load_state_dict(select_under(ours, name))
        net.eval()
    with torch.no_grad():
        tokens = join_frame_tokens(encoder(arrays["image"][:, :, None]))
        questions = arrays["question_ids"]
        states, mask = tower.ground(questions, Context(tokens.flatten(1, 2))), questions != PAD
        answers = arrays["answer_ids"]
        first = decoder.compute_first_words(states, mask)[:, answers[:, 1]]
        chosen, scores = decoder.rank(answers, states, mask, int(arrays["k_test"]))
        question = torch.repeat_interleave(torch.arange(len(states)), arrays["train_n"])
        trained = arrays["train_answer_ids"].clone()
        trained[:, 0] = decoder.pieces.decode_first
        losses = decoder.sum_losses(trained, states[question], mask[question])
        loss = (arrays["train_weights"] * losses).sum() / len(states)
    best = chosen.gather(1, scores.argmax(1, keepdim=True))[:, 0]
    assert_close("question_states", states, arrays["question_states"], "blip")
    assert_close("first_token_probs", first, arrays["first_token_probs"], "blip")
    assert_close("topk_ids", chosen, arrays["topk_ids"], "exact")
    assert_close("topk_log_prob_sums", scores, arrays["topk_log_prob_sums"], "blip_loss")
    assert_close("best_answer", best, arrays["best_answer"], "exact")
    assert_close("vqa_train_loss", loss, arrays["vqa_train_loss"], "blip_loss")
    names = "question_states first_token_probs topk_ids topk_log_prob_sums best_answer"
    return {*names.split(), "vqa_train_loss"}
