"""Clip -> Features: the nets of torchvision.models.video without their heads.

Each has its own normalisation and clip. Frames, fps, size, mean and std are those of its
Kinetics-400 weights (`get_model_weights(name).DEFAULT`: its meta and its transforms).
"""

from typing import Any

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import video
from torchvision.models.video.mvit import MSBlockConfig

from ssvid.encoder import IMAGENET, Encoder
from ssvid.encoders.convnet import ConvNet, halve, map_tensor_names, rename_tensors
from ssvid.encoders.mvit import DEPTHS, MViT, flatten_map
from ssvid.errors import UserError, check_positive, check_range
from ssvid.registry import encoders
from ssvid.shapes import Clip, ClipSpec, Features, Grid, Index

KINETICS = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)  # mean, std of its ResNets
PYTORCHVIDEO = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)  # of its MViTs, which were trained there


@encoders.register("r3d_18")
def r3d_18(
    *,
    frames: int = 16,  # of a clip
    fps: float = 15.0,  # frames a second
    size: int = 112,  # pixels of a side
) -> ConvNet:
    """R3D-18 (arXiv:1711.11248): 512 channels at T/8 x H/16 x W/16."""
    return _resnet("r3d_18", ClipSpec(frames=frames, fps=fps, size=size), halve_time=3)


@encoders.register("mc3_18")
def mc3_18(
    *,
    frames: int = 16,  # of a clip
    fps: float = 15.0,  # frames a second
    size: int = 112,  # pixels of a side
) -> ConvNet:
    """MC3-18 (arXiv:1711.11248), 3-D in its first stage only: 512 channels at T x H/16 x W/16."""
    return _resnet("mc3_18", ClipSpec(frames=frames, fps=fps, size=size), halve_time=0)


@encoders.register("r2plus1d_18")
def r2plus1d_18(
    *,
    frames: int = 16,  # of a clip
    fps: float = 15.0,  # frames a second
    size: int = 112,  # pixels of a side
) -> ConvNet:
    """R(2+1)D-18 (arXiv:1711.11248): 512 channels at T/8 x H/16 x W/16."""
    return _resnet("r2plus1d_18", ClipSpec(frames=frames, fps=fps, size=size), halve_time=3)


@encoders.register("mvit_v2_s")
def mvit_v2_s(
    *,
    width: int = 96,  # of the first stage; each later one doubles it
    depths: tuple[int, int, int, int] = DEPTHS,  # blocks of each stage
    frames: int = 16,  # of a clip
    fps: float = 7.5,  # frames a second
    size: int = 224,  # pixels of a side
) -> MViT:
    """MViTv2-S (arXiv:2112.01526): 8 x width channels at T/2 x H/32 x W/32.

    Its relative positions fit any clip.
    """
    # Its tables of positions need at least one row per stage.
    check_range(32, float("inf"), size=size)
    check_range(2, float("inf"), frames=frames)
    net = video.MViT(
        spatial_size=(size, size),
        temporal_size=frames,
        block_setting=_mvit_blocks(width, depths),
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        proj_after_attn=True,
        stochastic_depth_prob=0.2,
    )
    return MViT(
        net, Stem(net), net.norm, depths, ClipSpec(frames=frames, fps=fps, size=size), PYTORCHVIDEO
    )


class Stem(nn.Module):
    """Patches and the class token.

    The library's own forward takes the grid from the size that the net was built for.
    """

    def __init__(self, net: video.MViT) -> None:
        super().__init__()
        self.patch, self.with_class = net.conv_proj, net.pos_encoding

    def forward(self, clip: Clip) -> tuple[Tensor, Grid]:
        x, grid = flatten_map(self.patch(clip))
        return self.with_class(x), grid


@encoders.register("swin3d_t")
class Swin3d(Encoder):
    """Video Swin-T (arXiv:2106.13230): 8 x width channels at T/2 x H/32 x W/32.

    `tokens` are taken after the final norm. `layers` are the blocks of the last stage: earlier
    blocks have finer grids and fewer channels.
    """

    has_layers = True
    takes_adapters = True
    tiny_kwargs = {"width": 12, "depths": (1, 1, 1, 2), "frames": 4, "size": 32}

    def __init__(
        self,
        *,
        width: int = 96,  # of the first stage; each later one doubles it
        depths: tuple[int, int, int, int] = (2, 2, 6, 2),  # blocks of each stage
        frames: int = 32,  # of a clip
        fps: float = 15.0,  # frames a second
        size: int = 224,  # pixels of a side
    ) -> None:
        super().__init__()
        self.spec = ClipSpec(frames=frames, fps=fps, size=size)
        check_positive(width=width, depths=min(depths))
        if width % 3:
            raise UserError(
                f"swin3d_t has 3 heads in its first stage: its width {width} is no multiple of 3."
            )
        net = video.SwinTransformer3d(
            [2, 4, 4], width, list(depths), [3, 6, 12, 24], window_size=[8, 7, 7]
        )
        self.patch, self.norm = net.patch_embed, net.norm
        self.stages, self.blocks = net.features[:-1], net.features[-1]
        self.dim, self.depth = net.num_features, depths[-1]
        # Every second module of the net leads from a stage to the next, which is twice as wide.
        for stage, blocks in enumerate(depths):
            self.block_dims += (width * 2**stage,) * blocks
        self.mean, self.std = IMAGENET
        self.layout = map_tensor_names(net, self)

    def grid(self, T: int, H: int, W: int) -> Grid:
        return Grid(halve(T, 1), halve(H, 5), halve(W, 5))

    def run_stages(self, x: Float[Tensor, "B t h w D"]) -> Float[Tensor, "B t y x E"]:
        """All stages but the last, and the maps from one to the next."""
        number = 0
        for part in self.stages:
            if not isinstance(part, nn.Sequential):
                x = part(x)
                continue
            for block in part:
                x = self.adapt(number, block(x))
                number += 1
        return x

    def forward(
        self, clip: Clip, visible: Index | None = None, layers: tuple[int, ...] | None = None
    ) -> Features:
        if visible is not None:
            raise UserError(
                f"{self.name} attends in windows of neighbours: it cannot leave tokens out."
            )
        x = self.run_stages(self.patch(clip))  # B t h w D
        grid, maps = Grid(*x.shape[1:4]), {}
        for number, block in enumerate(self.blocks, 1):
            x = self.adapt(number - 1 + len(self.block_dims) - self.depth, block(x))
            if layers and number in layers:
                maps[number] = rearrange(x, "B t h w D -> B (t h w) D")
        tokens = rearrange(self.norm(x), "B t h w D -> B (t h w) D")
        return Features(tokens, tokens.mean(1), grid, tuple(maps[n] for n in layers or ()))

    def rename_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return rename_tensors(state, self.layout, self.name)


def _resnet(name: str, spec: ClipSpec, halve_time: int) -> ConvNet:
    """A ResNet. Its width cannot be chosen, because the library fixes it."""
    net: Any = getattr(video, name)(weights=None)
    body = nn.Sequential(net.stem, net.layer1, net.layer2, net.layer3, net.layer4)
    return ConvNet(
        net,
        body,
        net.fc.in_features,
        spec,
        KINETICS,
        lambda T, H, W: (halve(T, halve_time), halve(H, 4), halve(W, 4)),
        tiny_kwargs={"frames": 4, "size": 32},
    )


def _mvit_blocks(width: int, depths: tuple[int, ...]) -> list[MSBlockConfig]:
    """Table 3 of the paper.

    A stage opens by halving H and W and doubling channels and heads; keys stay at 1/32.
    """
    check_positive(width=width, depths=min(depths))
    blocks = []
    for stage, depth in enumerate(depths):
        for i in range(depth):
            opens = stage > 0 and i == 0
            block = MSBlockConfig(
                num_heads=2**stage,
                input_channels=width * 2 ** (stage - opens),
                output_channels=width * 2**stage,
                kernel_q=[3, 3, 3],
                kernel_kv=[3, 3, 3],
                stride_q=[1, 2, 2] if opens else [1, 1, 1],
                stride_kv=[1, 8 >> stage, 8 >> stage],
            )
            blocks.append(block)
    return blocks
