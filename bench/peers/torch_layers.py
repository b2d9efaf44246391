"""A MoE layer and the transformers of bench_vit in PyTorch, in several forms of the experts: what torch_moe.py times.

All forms compute the same: tokens choose their K most probable experts, nothing is dropped, y = sum of weight * expert(x) with
GELU (tanh) perceptrons.
"""

import types

import torch
from torch import nn
from torch.nn import functional as F


def gelu(x):
    return F.gelu(x, approximate="tanh")


def loop(x, choice, weight, p):
    """The usual form: expert by expert, its tokens by index, index_add_ of the results."""
    y = torch.zeros_like(x)
    for e in range(p.w1.shape[0]):
        token, k = torch.where(choice == e)
        rows = gelu(x[token] @ p.w1[e] + p.b1[e]) @ p.w2[e] + p.b2[e]
        y.index_add_(0, token, rows * weight[token, k, None])
    return y


def _sorted(x, choice, weight, experts):
    """Rows by expert: their tokens, weights and how many each expert has."""
    order = torch.argsort(choice.flatten(), stable=True)
    token = order // choice.shape[1]
    counts = torch.bincount(choice.flatten(), minlength=experts)
    return token, weight.flatten()[order], counts, choice.flatten()[order]


def bmm(x, choice, weight, p):
    """Sorted by expert, padded to the fullest expert, two batched products."""
    experts = p.w1.shape[0]
    token, w, counts, expert = _sorted(x, choice, weight, experts)
    first = torch.cumsum(counts, 0) - counts
    slots = int(counts.max())
    place = expert * slots + torch.arange(token.numel(), device=x.device) - first[expert]
    padded = x.new_zeros(experts * slots, x.shape[1]).index_copy(0, place, x[token]).view(experts, slots, -1)
    rows = torch.baddbmm(p.b2[:, None], gelu(torch.baddbmm(p.b1[:, None], padded, p.w1)), p.w2)
    rows = rows.view(experts * slots, -1)[place]
    return torch.zeros_like(x).index_add_(0, token, rows * w[:, None])


def grouped(x, choice, weight, p):
    """Sorted by expert, two grouped products."""
    token, w, counts, expert = _sorted(x, choice, weight, p.w1.shape[0])
    ends = torch.cumsum(counts, 0).to(torch.int32)
    product = getattr(F, "grouped_mm", None) or torch._grouped_mm  # without a public name in older ones
    hidden = gelu(product(x[token], p.w1, offs=ends) + p.b1[expert])
    rows = product(hidden, p.w2, offs=ends) + p.b2[expert]
    return torch.zeros_like(x).index_add_(0, token, rows * w[:, None])


def experts_in_bf16(form):
    """The form with rows and experts rounded to bf16, and results in the type of x."""
    def run(x, choice, weight, p):
        narrow = types.SimpleNamespace(**{name: getattr(p, name).bfloat16() for name in ("w1", "b1", "w2", "b2")})
        return form(x.bfloat16(), choice, weight.bfloat16(), narrow).to(x.dtype)
    return run


FORMS = {"loop": loop, "bmm": bmm, "grouped": grouped}


def square_of_variation(x):
    return x.var(unbiased=False) / x.mean() ** 2


class Moe(nn.Module):
    """Softmax token choice. noise: of V-MoE, in training, std 1 / E, with importance and load losses (0.005 each) in `loss`."""

    def __init__(self, form, width, hidden, experts, choices, noise=False):
        super().__init__()
        self.form, self.choices, self.noise, self.loss = form, choices, noise, 0.0
        self.gate = nn.Parameter(torch.randn(width, experts) / width**0.5)
        for name, inner, outer in (("1", width, hidden), ("2", hidden, width)):
            bound = (6 / (inner + outer)) ** 0.5
            self.register_parameter("w" + name, nn.Parameter(torch.empty(experts, inner, outer).uniform_(-bound, bound)))
            self.register_parameter("b" + name, nn.Parameter(torch.zeros(experts, outer)))

    def forward(self, x):
        logits = x @ self.gate
        probs = torch.softmax(logits, -1)
        ranked, given = logits, probs
        noisy = self.noise and self.training
        if noisy:
            std = 1 / logits.shape[1]
            ranked = logits + std * torch.randn_like(logits)
            given = torch.softmax(ranked, -1)
        top, choice = torch.topk(ranked, self.choices, -1)
        if noisy:
            load = torch.special.ndtr((logits - top[:, -1:]) / std).mean(0)
            self.loss = 0.005 * (square_of_variation(probs.sum(0)) + square_of_variation(load))
        return self.form(x, choice, given.gather(1, choice), self)


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        images, tokens, width = x.shape
        q, k, v = self.qkv(x).view(images, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(images, tokens, width))


class Block(nn.Module):
    def __init__(self, width, heads, feed):
        super().__init__()
        self.norm_0, self.norm_1 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.feed = Attention(width, heads), feed

    def forward(self, x):
        x = x + self.attention(self.norm_0(x))
        return x + self.feed(self.norm_1(x).flatten(0, 1)).view_as(x)


class Vit(nn.Module):
    """Images of 32 x 32, patches of 4 x 4, ten classes, mean pooling; E = 8, K = 2 in the named blocks."""

    def __init__(self, form, width, hidden, heads, blocks, moe_blocks):
        super().__init__()
        self.embed = nn.Linear(48, width)
        self.positions = nn.Parameter(0.02 * torch.randn(64, width))
        self.blocks = nn.ModuleList(
            Block(width, heads, Moe(form, width, hidden, 8, 2, noise=True) if i in moe_blocks else
                  nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width)))
            for i in range(blocks))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, images):  # [N, 32, 32, 3]
        n = images.shape[0]
        patches = images.view(n, 8, 4, 8, 4, 3).transpose(2, 3).reshape(n, 64, 48)
        x = self.embed(patches) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))

    def routing_loss(self):
        return sum(b.feed.loss for b in self.blocks if isinstance(b.feed, Moe))


# sizes; images of a training step, of an adversarial one
PRESETS = {"nano": ({"width": 64, "hidden": 128, "heads": 4, "blocks": 4, "moe_blocks": (1, 3)}, 128, 64),
           "ti": ({"width": 192, "hidden": 768, "heads": 3, "blocks": 12, "moe_blocks": tuple(range(6, 12))}, 32, 16)}


def train_step(preset, form, compiled=False, images=None):
    """One step of AdamW with clipping, as a function, on a batch that stays."""
    torch.manual_seed(1)
    config, usual, _ = PRESETS[preset]
    model = Vit(form, **config)
    run = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, fused=True)
    batch = torch.randn(images or usual, 32, 32, 3)
    labels = torch.arange(len(batch)) % 10

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(run(batch), labels) + model.routing_loss()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step


def adversarial_step(preset, form, compiled=False, images=None):
    """PGD (L-inf 8/255, ten steps of 2/255 from a random start) and a pass with all gradients on what it found, as a function;
    no optimizer's step."""
    torch.manual_seed(1)
    config, _, usual = PRESETS[preset]
    model = Vit(form, **config)
    run = torch.compile(model) if compiled else model
    batch = torch.rand(images or usual, 32, 32, 3)
    labels = torch.arange(len(batch)) % 10
    eps, alpha = 8 / 255, 2 / 255

    def attacked():
        model.eval()
        x = (batch + torch.empty_like(batch).uniform_(-eps, eps)).clamp_(0, 1)
        for _ in range(10):
            x.requires_grad_()
            loss = F.cross_entropy(run(x), labels, reduction="sum")
            (dx,) = torch.autograd.grad(loss, x)  # of the images alone
            with torch.no_grad():
                x = torch.min(torch.max(x + alpha * dx.sign(), batch - eps), batch + eps).clamp_(0, 1)
        return x

    def step():
        x = attacked()
        model.train()
        model.zero_grad(set_to_none=True)
        loss = F.cross_entropy(run(x), labels) + model.routing_loss()
        loss.backward()
        return loss.item()

    return step


def layer_passes(form, shape, compiled=False):
    """(forward, forward and backward) of a layer in training; gradients of parameters accumulate."""
    torch.manual_seed(1)
    layer = Moe(form, shape["width"], shape["hidden"], shape["experts"], shape["k"])
    run = torch.compile(layer) if compiled else layer
    x = torch.randn(shape["tokens"], shape["width"], requires_grad=True)
    dy = torch.randn(shape["tokens"], shape["width"])
    return (lambda: run(x)), (lambda: run(x).backward(dy))


def check_forms():
    """Complains unless all forms give what the loop gives, gradients too."""
    results = {}
    for name, form in FORMS.items():
        torch.manual_seed(3)
        layer = Moe(form, 12, 20, 4, 2)
        x = torch.randn(40, 12, requires_grad=True)
        y = layer(x)
        y.square().sum().backward()
        results[name] = [y.detach(), x.grad, *(p.grad for p in layer.parameters())]
    for name, own in results.items():
        for expected, found in zip(results["loop"], own, strict=True):
            torch.testing.assert_close(found, expected, msg=f"{name} computes otherwise than the loop")
