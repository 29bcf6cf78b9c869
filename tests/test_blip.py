"""BLIP's and LiteVL's encoders, text side and files, beside `transformers` and by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from ssvid import create_encoder, load_encoder
from ssvid.encoders.litevl import LiteVL
from ssvid.engine.warm_start import start_encoder
from ssvid.errors import UserError
from ssvid.nn.bert import Context
from ssvid.nn.text_pooling import TextPooling
from ssvid.text import create_tower
from ssvid.text.answering import AnswerSpace, load_answers, save_answers
from ssvid.text.blip import AnswerDecoder, BlipText
from ssvid.text.joint import TOKENS, VIDEO
from ssvid.text.joint_files import load_joint, save_joint
from ssvid.text.matching import MatchingSpace, join_frame_tokens
from ssvid.text.question_start import start_from
from ssvid.text.wordpiece import SMALL, WordPieces, read_vocabulary
from ssvid.weights.blip import LAYOUTS
from ssvid.weights.files import read_weights
from ssvid.weights.published import identify_file

IMAGE = {"dim": 24, "depth": 2, "heads": 2, "patch": 8}
TEXT: dict[str, Any] = {"width": 24, "layers": 1, "heads": 2, "length": 12, "dropout": 0.0}
SENTENCES = ["a red square moves left", "the blue star grows"]


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


def build_litevl(**kwargs: Any) -> LiteVL:
    torch.manual_seed(0)
    net = create_encoder("litevl", image="blip_vit", image_kwargs=IMAGE, size=16, **kwargs)
    assert isinstance(net, LiteVL)
    return net.eval()


def wake(net: LiteVL) -> LiteVL:
    """The same net with attention over time and scales that are not zero."""
    torch.manual_seed(1)
    for added in net.times:
        torch.nn.init.normal_(added.last.weight, std=0.3)
        if added.scale is not None:
            torch.nn.init.normal_(added.scale.fc2.weight, std=1.0)
    return net


def draw_clip(frames: int = 4, videos: int = 2) -> Tensor:
    return torch.randn(videos, 3, frames, 16, 16, generator=torch.Generator().manual_seed(2))


def build_space(pooling: TextPooling, **kwargs: Any) -> MatchingSpace:
    torch.manual_seed(0)
    tower = create_tower("blip_text", dim=8, context_dim=24, **TEXT)
    assert isinstance(tower, BlipText)
    heads = torch.nn.Linear(24, 8), torch.nn.Linear(24, 2)
    temperature = torch.nn.Parameter(torch.tensor(0.07))
    space = MatchingSpace(
        tower, *heads, temperature=temperature, pooling=pooling, has_cls=True, **kwargs
    )
    return space.eval()


def test_before_it_learns_litevl_is_blip_frame_by_frame():
    net, clip = build_litevl(frames=4), draw_clip()
    alone, together = net.image(clip), net(clip)
    assert torch.equal(alone.tokens, together.tokens)
    assert torch.equal(alone.cls, together.cls)
    assert net.read_scales() == [1.0, 1.0]


def test_a_net_of_pictures_ignores_time_and_litevl_does_not():
    clip = draw_clip(videos=1)
    order = [2, 0, 3, 1]
    pictures = build_litevl(frames=4, time=False)
    net = wake(build_litevl(frames=4))
    close(pictures(clip[:, :, order]).pooled, pictures(clip).pooled)
    torch.nn.init.normal_(net.time_positions)
    assert not torch.allclose(net(clip[:, :, order]).pooled, net(clip).pooled, atol=1e-3)


def test_attention_over_time_is_the_plain_formula():
    net = wake(build_litevl(frames=4))
    added, x = net.times[0], torch.randn(2, 4, 3, 24)
    q, k, v = added.qkv(added.norm(x)).chunk(3, -1)
    expected = torch.zeros_like(x)
    for video in range(2):
        for patch in range(3):
            heads = []
            for head in (slice(0, 12), slice(12, 24)):
                of_head = [part[video, :, patch, head] for part in (q, k, v)]
                weights = (of_head[0] @ of_head[1].T / 12**0.5).softmax(-1)
                heads.append(weights @ of_head[2])
            expected[video, :, patch] = added.last(added.proj(torch.cat(heads, -1)))
    scale = added.scale
    hidden = F.gelu(scale.fc1(expected.mean(2)))
    gamma = torch.tanh(scale.fc2(hidden)) + 1
    assert gamma.shape == (2, 4, 1) and gamma.std() > 0.001
    close(added(x), gamma[:, :, None] * expected, 1e-5)


def test_one_class_token_for_all_frames_is_their_mean():
    net = build_litevl(frames=4, cls="video")
    cls = net(draw_clip()).cls
    assert torch.equal(cls[:, 0], cls[:, 3])
    still = draw_clip(frames=1).expand(-1, -1, 4, -1, -1)
    close(net(still).cls, net.image(still).cls, 1e-5)


def test_a_picture_net_begins_attention_over_time():
    torch.manual_seed(3)
    pictures, net = create_encoder("blip_vit", frames=4, size=16, **IMAGE), build_litevl(frames=4)
    start_encoder(net, dict(pictures.state_dict()), "blip.pth")
    assert torch.equal(net.times[1].qkv.weight, pictures.blocks[1].qkv.weight)
    assert torch.equal(net.times[0].norm.bias, pictures.blocks[0].norm1.bias)
    assert not net.times[0].last.weight.any()
    close(net(draw_clip()).tokens, pictures(draw_clip()).tokens)


def test_more_frames_resize_the_table_of_times():
    few, many = build_litevl(frames=4), build_litevl(frames=8)
    torch.nn.init.normal_(few.time_positions)
    start_encoder(many, dict(few.state_dict()), "run")
    assert many.time_positions.shape == (8, 24)
    with pytest.raises(UserError, match="made of a BLIP"):
        create_encoder("litevl", image="clip_vit")


@pytest.mark.parametrize(
    "variant, further", [("original", 0), ("spatial", 4), ("temporal", 5), ("both", 9)]
)
def test_text_pooling_adds_means_of_frames_and_of_places(variant: Any, further: int):
    """Four frames of five patches. No parameters; weights that sum to one."""
    pooling = TextPooling(variant=variant)
    patches, guides = torch.randn(2, 4, 5, 24), F.normalize(torch.randn(2, 24), dim=1)
    weighted = pooling.weigh_means(patches, guides, None, torch.nn.Identity())
    assert (0 if weighted is None else weighted.shape[1]) == further
    close(pooling.weigh(torch.randn(3, 7)).sum(1), torch.ones(3))
    close(pooling.weigh(torch.ones(1, 4)), torch.full((1, 4), 0.25))
    if variant == "spatial" and weighted is not None:
        frames = patches.mean(2)
        cosines = F.cosine_similarity(frames, guides[:, None], dim=-1)
        close(weighted, cosines.softmax(1)[..., None] * frames, 1e-5)
    even = TextPooling(variant=variant, weights="mean")
    close(even.weigh(torch.ones(1, 4)), torch.ones(1, 4))


def test_the_order_of_frames_moves_their_means_and_not_those_of_places():
    pooling = TextPooling(variant="both")
    patches, guides = torch.randn(1, 4, 5, 24), F.normalize(torch.randn(1, 24), dim=1)
    order = [3, 1, 0, 2]
    plain = pooling.weigh_means(patches, guides, None, torch.nn.Identity())
    mixed = pooling.weigh_means(patches[:, order], guides, None, torch.nn.Identity())
    assert plain is not None and mixed is not None
    close(mixed[:, :4], plain[:, :4][:, order])
    close(mixed[:, 4:], plain[:, 4:])


def test_pairs_that_share_a_clip_equal_copies_of_it():
    space = build_space(TextPooling(variant="both"))
    tokens, rows = torch.randn(2, 4, 5, 24), torch.tensor([1, 0, 1])
    ids = space.tower.tokens([*SENTENCES, "a star"])
    guides = F.normalize(space.tower.embed(ids), dim=1)
    shared = space.judge(ids, guides, tokens, rows)
    close(shared, space.judge(ids, guides, tokens[rows]), 1e-5)


def test_a_saved_space_compares_and_matches_alike(tmp_path: Path):
    space = build_space(TextPooling(variant="both"), guide_space="hidden")
    features = build_litevl(frames=4)(draw_clip())
    clips = space.read_clips(features)
    save_joint(space, tmp_path)
    again = load_joint(tmp_path)
    assert again.can_match and again.is_product
    texts = space.embed_texts(SENTENCES)
    assert torch.equal(again.compare(clips, texts), space.compare(clips, texts))
    scores = space.match(clips, SENTENCES)
    assert torch.equal(again.match(clips, SENTENCES), scores)
    ids = space.tower.tokens(SENTENCES)
    logits = space.judge(ids, space.guide(ids, texts), clips[TOKENS])
    close(scores, logits[:, 1] + (clips[VIDEO] * texts).sum(1))


def test_answers_are_saved_and_start_another_run(tmp_path: Path):
    torch.manual_seed(0)
    tower = create_tower("blip_text", dim=None, context_dim=24, **TEXT)
    assert isinstance(tower, BlipText)
    decoder = AnswerDecoder(tower).eval()
    space = AnswerSpace(tower.eval(), decoder, pooling=TextPooling(variant="both"), has_cls=True)
    clips = space.read_clips(build_litevl(frames=4)(draw_clip()))
    save_answers(space, tmp_path)
    again = load_answers(tmp_path)
    answers = ["red", "a blue star", "yes"]
    first, second = (one.rank(clips, SENTENCES, answers, 2) for one in (space, again))
    assert torch.equal(first.scores, second.scores) and first.answers.shape == (2, 2)
    assert (first.scores[:, 0] >= first.scores[:, 1]).all()
    assert space.generate(clips, SENTENCES) == again.generate(clips, SENTENCES)
    begun, decoding = start_from(str(tmp_path), None, build_litevl(frames=4), 0.2)
    assert torch.equal(begun.bert.table.weight, tower.bert.table.weight)
    assert torch.equal(decoding.head.bias, decoder.head.bias) and decoding.smoothing == 0.2


def test_ranked_scores_are_smoothed_losses_of_whole_answers():
    torch.manual_seed(0)
    tower = create_tower("blip_text", dim=None, context_dim=24, **TEXT)
    assert isinstance(tower, BlipText)
    decoder = AnswerDecoder(tower, smoothing=0.1).eval()
    states, mask = torch.randn(1, 6, 24), torch.ones(1, 6, dtype=torch.bool)
    ids = decoder.tokens(["red", "a star"])
    logits = decoder.compute_logits(ids[1:, :-1], states, mask)[0].log_softmax(-1)
    expected = torch.zeros(())
    for number, word in enumerate(ids[1, 1:].tolist()):
        expected = expected - 0.9 * logits[number, word] - 0.1 * logits[number].mean()
    _, scores = decoder.rank(ids, states, mask, 2)
    best, _ = decoder.rank(ids, states, mask, 2)
    close(scores[0, best[0].tolist().index(1)], -expected, 1e-4)


def write_vocabulary(folder: Path, size: int) -> str:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces += [f"word{n}" for n in range(size - 2 - len(pieces))]
    file = folder / "vocab.txt"
    file.write_text("\n".join(pieces) + "\n")
    return str(file)


def build_library_net(kind: str) -> Any:
    library = pytest.importorskip("transformers")
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"hidden_size": 128, "intermediate_size": 512, "vocab_size": 60, **sizes}
    text |= {"max_position_embeddings": 16, "encoder_hidden_size": 128}
    text |= {"bos_token_id": 58, "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0}
    vision = {"hidden_size": 128, "intermediate_size": 512, "image_size": 16, "patch_size": 8}
    config = library.BlipConfig(
        text_config={**text, "projection_dim": 8},
        vision_config={**vision, **sizes, "layer_norm_eps": 1e-6},
        image_text_hidden_size=8,
    )
    torch.manual_seed(0)
    net = getattr(library, kind)(config).eval()
    for parameter in net.parameters():  # the library begins with biases of zero
        torch.nn.init.normal_(parameter, std=0.1)
    return net


def save_library_net(net: Any, file: Path) -> dict[str, Tensor]:
    state = {key: x.contiguous().clone() for key, x in net.state_dict().items()}
    save_file(state, file)
    return state


def test_a_retrieval_file_of_hugging_face_gives_its_numbers(tmp_path: Path):
    net, file = build_library_net("BlipForImageTextRetrieval"), tmp_path / "model.safetensors"
    state = save_library_net(net, file)
    encoder = load_encoder(file)
    space = load_joint(file, write_vocabulary(tmp_path, 60))
    assert isinstance(space, MatchingSpace)
    images, sentences = torch.randn(2, 3, 16, 16), ["word1 word2 word3", "word4"]
    ids = space.tower.tokens(sentences)
    with torch.inference_mode():
        clips = space.read_clips(encoder(images[:, :, None]))
        mask = (ids != 0).long()
        theirs = {"input_ids": ids, "pixel_values": images, "attention_mask": mask}
        itc = net(**theirs, use_itm_head=False)
        close(clips[VIDEO] @ space.embed_texts(sentences).T, itc.itm_score, 1e-5)
        # The library leaves [CLS] where BLIP's evaluation puts its own first token.
        hidden = space.tower.bert(ids, Context(clips[TOKENS].flatten(1, 2)))
        close(space.matcher(hidden[:, 0]), net(**theirs).itm_score, 1e-5)
    check_round_trip(file, state)


def test_a_file_of_questions_of_hugging_face_gives_its_numbers(tmp_path: Path):
    net, file = build_library_net("BlipForQuestionAnswering"), tmp_path / "model.safetensors"
    state = save_library_net(net, file)
    encoder = load_encoder(file)
    tower, decoder = start_from(str(file), write_vocabulary(tmp_path, 60), encoder, 0.1)
    tower.eval(), decoder.eval()
    images = torch.randn(2, 3, 16, 16)
    ids = tower.mark_grounded(tower.tokens(["word1 word2", "word4 word5 word6"]))
    answers = decoder.tokens(["word7", "word8 word9"])
    with torch.inference_mode():
        tokens = join_frame_tokens(encoder(images[:, :, None])).flatten(1, 2)
        states = tower.bert(ids, Context(tokens))
        mask = (ids != 0).long()
        pictures = net.vision_model(pixel_values=images)[0]
        read = net.text_encoder(ids, attention_mask=mask, encoder_hidden_states=pictures)[0]
        close(states[mask.bool()], read[mask.bool()], 1e-5)
        written = net.text_decoder(
            answers,
            attention_mask=(answers != 0).long(),
            encoder_hidden_states=read,
            encoder_attention_mask=mask,
        ).logits
        ours = decoder.compute_logits(answers, states, mask.bool())
    real = answers != 0
    close(ours[real], written[real], 1e-4)
    check_round_trip(file, state)


def check_round_trip(file: Path, state: dict[str, Tensor]) -> None:
    published = identify_file(read_weights(file))
    assert published is not None and not published.missing and not published.unexpected
    back = published.layout.to_theirs(published.ours)
    assert [*back] == [*state]
    for key, x in load_file(file).items():
        assert torch.equal(back[key], x)


def test_an_official_retrieval_file_is_written_and_read_back(tmp_path: Path):
    """With momentum nets and queues, after steps of training."""
    from objectives.litevl.retrieval import LiteVLRetrieval

    torch.manual_seed(0)
    encoder = create_encoder("blip_vit", frames=1, size=16, **{**IMAGE, "heads": 1})
    objective = LiteVLRetrieval(encoder, dim=8, queue=4, options=TEXT, text_pooling="original")
    vectors = F.normalize(torch.randn(2, 8), dim=1)
    for _ in range(3):
        objective.pending_keys.append((vectors, vectors.flip(0), torch.tensor([5, 6])))
        objective.after_step(1.0)
    official = LAYOUTS[2]
    ours = dict(objective.state_dict())
    theirs = official.to_theirs(ours)
    assert theirs["ptr_queue"].tolist() == [2] and theirs["image_queue"].shape == (8, 4)
    torch.save({"model": theirs}, tmp_path / "blip.pth")
    published = identify_file(read_weights(tmp_path / "blip.pth"))
    assert published is not None and published.layout.name == "blip"
    again = LiteVLRetrieval(
        create_encoder("blip_vit", frames=1, size=16, **{**IMAGE, "heads": 1}),
        dim=8,
        queue=4,
        options=TEXT,
        text_pooling="original",
    )
    again.load_state_dict(published.ours)
    for key, x in official.to_theirs(dict(again.state_dict())).items():
        assert torch.equal(x, theirs[key])


def test_a_vocabulary_reads_and_writes_words(tmp_path: Path):
    pieces = WordPieces(SMALL)
    ids = pieces.encode(["What does the zebra do, first?"], 30)
    assert pieces.decode(ids[0]) == "what does the zebra do, first?"
    assert pieces.encode(["red"], 30, first="decode")[0, 0] == pieces.size - 2
    assert pieces.encode(["red"], 30, first="ground")[0, 0] == pieces.size - 1
    assert pieces.encode(["red " * 50], 10).shape == (1, 10)
    assert pieces.can_read("red") and not pieces.can_read("\u6f22")
    wrong = tmp_path / "vocab.txt"
    wrong.write_text("red\nblue\n")
    with pytest.raises(UserError, match="no vocabulary of BERT"):
        read_vocabulary(wrong)
    with pytest.raises(UserError, match="There is no vocabulary"):
        create_tower("blip_text", vocabulary=str(tmp_path / "none.txt"))


def test_a_text_side_of_another_width_is_refused(tmp_path: Path):
    from objectives.litevl.questions import LiteVLQuestions

    with pytest.raises(UserError, match="cannot be compared as they are"):
        LiteVLQuestions(build_litevl(frames=2), options={**TEXT, "width": 16})
    space = build_space(TextPooling())
    save_joint(space, tmp_path)
    other = create_encoder("blip_vit", frames=1, size=16, **{**IMAGE, "dim": 32})
    with pytest.raises(UserError, match="tokens of width 24"):
        start_from(str(tmp_path), None, other, 0.1)
