"""Inputs, fp32 references and other implementations of every case.

Each builder returns a `Prepared`: the inputs of our kernel by the names of its contract, the reference, and callables
that compute the same by other means. An input that it leaves out is filled by our kernel's contract.
"""

import functools
import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32, "f8E4M3FN": torch.float8_e4m3fn}


@dataclass
class Case:
    """A line of cases.json."""

    op: str
    case: str
    kernel: str
    dtype: str
    sizes: dict
    per: str


@dataclass
class Prepared:
    """A case on the GPU."""

    ours: dict
    output: str
    reference: torch.Tensor
    flops: float = 0.0
    bytes: float = 0.0
    peers: dict = field(default_factory=dict)
    absent: dict = field(default_factory=dict)
    tolerance: float = 1e-2
    reference_dtype: torch.dtype = torch.bfloat16

    def add(self, name, make):
        """A contender that `make` returns; why there is none, when it cannot."""
        try:
            self.peers[name] = make()
        except Exception as problem:
            self.absent[name] = f"{type(problem).__name__}: {str(problem)[:300]}"


def prepare(case, peers):
    """The case's inputs, reference and the contenders among the groups `peers`."""
    torch._dynamo.reset()
    return BUILDERS[case.op](case, peers)


def draw(*shape, dtype=torch.bfloat16):
    return torch.randn(*shape, device="cuda").to(dtype)


def compiled(function):
    """A function under torch.compile, tuned, without graphs, which would hide launches of others only."""
    return torch.compile(function, dynamic=False, mode="max-autotune-no-cudagraphs")


def size_of(*tensors):
    return float(sum(tensor.numel() * tensor.element_size() for tensor in tensors))


def gemm(case, peers):
    m, n, k = (case.sizes[name] for name in "mnk")
    lhs, rhs = draw(m, k, dtype=DTYPES[case.dtype]), draw(n, k, dtype=DTYPES[case.dtype])
    made = Prepared({"lhs": lhs, "rhs": rhs}, "out", lhs.float() @ rhs.float().t(), flops=2.0 * m * n * k)
    if "torch" in peers:
        if case.dtype == "f8E4M3FN":
            one = torch.ones((), device="cuda")
            scaled = functools.partial(torch._scaled_mm, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
            made.add("cublas", lambda: lambda: scaled(lhs, rhs.t()))
            # The hardware keeps fewer bits of the sum between the steps of an f8 product.
            made.tolerance = 2e-2
        else:
            made.add("cublas", lambda: lambda: lhs @ rhs.t())
    if "tilegym" in peers and case.dtype == "bf16":
        made.add("tilegym", lambda: tilegym_matmul(lhs, rhs))
    return made


def linear(case, peers):
    m, n, k = (case.sizes[name] for name in "mnk")
    x, weight, bias = draw(m, k), draw(n, k), draw(n)
    activation = {0: lambda y: y, 1: F.relu, 2: lambda y: F.gelu(y, approximate="tanh"), 3: F.silu}
    activation = activation[case.sizes["activation"]]
    function = lambda x, w, b: activation(F.linear(x, w, b))
    reference = function(x.float(), weight.float(), bias.float())
    made = Prepared({"lhs": x, "rhs": weight, "bias": bias}, "out", reference, flops=2.0 * m * n * k)
    if "torch" in peers:
        made.add("cublas", lambda: lambda: function(x, weight, bias))
    if "compile" in peers:
        fast = compiled(function)
        made.add("torch.compile", lambda: lambda: fast(x, weight, bias))
    return made


def batched(case, peers):
    batch, m, n, k = (case.sizes[name] for name in ("batch", "m", "n", "k"))
    lhs, rhs = draw(batch, m, k), draw(batch, n, k)
    reference = lhs.float() @ rhs.float().mT
    made = Prepared({"lhs": lhs, "rhs": rhs}, "out", reference, flops=2.0 * batch * m * n * k)
    if "torch" in peers:
        made.add("cublas", lambda: lambda: torch.bmm(lhs, rhs.mT))
    return made


def attention_reference(q, k, v, causal):
    """softmax(q kᵀ / sqrt(d)) v in fp32, a head at a time, queries aligned to the end of the keys."""
    batch, heads, queries, dim = q.shape
    keys, group = k.shape[2], heads // k.shape[1]
    out = torch.empty(q.shape, dtype=torch.float32, device=q.device)
    hidden = None
    if causal:
        hidden = torch.ones(queries, keys, dtype=torch.bool, device=q.device).triu(keys - queries + 1)
    for b in range(batch):
        for h in range(heads):
            scores = q[b, h].float() @ k[b, h // group].float().t() / math.sqrt(dim)
            if hidden is not None:
                scores.masked_fill_(hidden, -math.inf)
            out[b, h] = torch.softmax(scores, -1) @ v[b, h // group].float()
    return out


def sdpa(q, k, v, causal, backend):
    """A callable over one of PyTorch's attention kernels."""
    from torch.nn.attention import sdpa_kernel
    from torch.nn.attention.bias import causal_lower_right

    options = {"enable_gqa": q.shape[1] != k.shape[1]}
    if causal and q.shape[2] != k.shape[2]:
        options["attn_mask"] = causal_lower_right(q.shape[2], k.shape[2])
    else:
        options["is_causal"] = causal

    def run():
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, **options)

    return run


def add_sdpa(made, q, k, v, causal):
    from torch.nn.attention import SDPBackend

    made.add("cudnn", lambda: sdpa(q, k, v, causal, SDPBackend.CUDNN_ATTENTION))
    made.add("flash", lambda: sdpa(q, k, v, causal, SDPBackend.FLASH_ATTENTION))


def flex(q, k, v, causal):
    """A callable over FlexAttention."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    fast, shift, mask = compiled(flex_attention), k.shape[2] - q.shape[2], None
    if causal:
        visible = lambda _batch, _head, query, key: query + shift >= key
        mask = create_block_mask(visible, None, None, q.shape[2], k.shape[2], device="cuda")
    return lambda: fast(q, k, v, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1])


def fmha(case, peers):
    s = case.sizes
    q = draw(s["batch"], s["heads"], s["seq_q"], s["head_dim"])
    k, v = (draw(s["batch"], s["kv_heads"], s["seq_k"], s["head_dim"]) for _ in range(2))
    causal, queries, keys = bool(s["causal"]), s["seq_q"], s["seq_k"]
    pairs = queries * keys - (queries * (queries - 1) // 2 if causal else 0)
    flops = 4.0 * s["batch"] * s["heads"] * s["head_dim"] * pairs
    made = Prepared({"q": q, "k": k, "v": v}, "out", attention_reference(q, k, v, causal), flops=flops)
    if "torch" in peers:
        add_sdpa(made, q, k, v, causal)
    if "flex" in peers:
        made.add("flex", lambda: flex(q, k, v, causal))
    if "tilegym" in peers:
        made.add("tilegym", lambda: tilegym_fmha(q, k, v, causal))
    return made


def decode(case, peers):
    s = case.sizes
    q = draw(s["batch"], s["heads"], 1, s["head_dim"])
    k, v = (draw(s["batch"], s["kv_heads"], s["seq_k"], s["head_dim"]) for _ in range(2))
    # Our cache has the heads of a key side by side; the query's shape differs in name only.
    ours = {"q": q, "k": k.transpose(1, 2), "v": v.transpose(1, 2)}
    ours |= {"k_scale": torch.ones(1, device="cuda"), "v_scale": torch.ones(1, device="cuda")}
    made = Prepared(ours, "out", attention_reference(q, k, v, False), bytes=size_of(q, k, v, q))
    if "torch" in peers:
        add_sdpa(made, q, k, v, False)
    if "flex" in peers:
        made.add("flex", lambda: flex(q, k, v, False))
    if "tilegym" in peers:
        made.add("tilegym", lambda: tilegym_decode(q, k, v))
    return made


# The magnitudes of E2M1 by code.
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def skinny(case, peers):
    m, n, k = (case.sizes[name] for name in "mnk")
    x, packed = draw(m, k), torch.randint(0, 256, (n, k // 2), dtype=torch.uint8, device="cuda")
    scales = (torch.rand(n, k // 16, device="cuda") + 0.5).to(torch.float8_e4m3fn)
    magnitudes = torch.tensor(E2M1, device="cuda")
    codes = torch.stack((packed & 15, packed >> 4), -1).view(n, k)
    wide = magnitudes[(codes & 7).long()] * (1.0 - 2.0 * (codes >> 3))
    wide *= scales.float().repeat_interleave(16, 1) * 0.0625
    ours = {"x": x, "weights": packed, "scales": scales, "global_scale": torch.full((1,), 0.0625, device="cuda")}
    # The rate counts the bytes of 16-bit weights for all, so that ratios of rates are ratios of speed.
    made = Prepared(ours, "out", x.float() @ wide.t(), bytes=2.0 * (m * k + n * k + m * n))
    if "torch" in peers:
        weight = wide.to(torch.bfloat16)
        made.add("cublas bf16", lambda: lambda: x @ weight.t())
    return made


def rowwise(function, names, output="y"):
    """A builder for a function of a matrix, further matrices named in `names`, and rows of one element a column."""

    def build(case, peers):
        rows, columns = case.sizes["rows"], case.sizes["columns"]
        shape = {"x": (rows, columns), "residual": (rows, columns)}
        inputs = {name: draw(*shape.get(name, (columns,))) for name in names}
        reference = function(*(tensor.float() for tensor in inputs.values()))
        results = reference if isinstance(reference, tuple) else (reference,)
        moved = size_of(*inputs.values()) + 2.0 * sum(result.numel() for result in results)
        made = Prepared(inputs, output, results[0], bytes=moved)
        if "compile" in peers:
            fast = compiled(function)
            first = lambda result: result[0] if isinstance(result, tuple) else result
            made.add("torch.compile", lambda: lambda: first(fast(*inputs.values())))
        return made

    return build


def rms_norm(x, weight):
    return F.rms_norm(x, weight.shape, weight, 1e-6)


def add_rms_norm(x, residual, weight):
    total = x + residual
    return F.rms_norm(total, weight.shape, weight, 1e-6), total


def layer_norm(x, weight, bias):
    return F.layer_norm(x, weight.shape, weight, bias, 1e-5)


def softmax(x):
    return torch.softmax(x, -1)


def gated(activation):
    """A builder for `activation(gate) * value`, gates and values side by side in a row."""

    def build(case, peers):
        rows, columns = case.sizes["rows"], case.sizes["columns"]
        x = draw(rows, 2 * columns)
        function = lambda x: activation(x[:, :columns]) * x[:, columns:]
        made = Prepared({"x": x}, "y", function(x.float()), bytes=6.0 * rows * columns)
        if "compile" in peers:
            fast = compiled(function)
            made.add("torch.compile", lambda: lambda: fast(x))
        return made

    return build


def rope(case, peers):
    s = case.sizes
    tokens, half, interleaved = s["tokens"], s["head_dim"] // 2, bool(s["interleaved"])
    x = draw(tokens, s["heads"], s["head_dim"])
    positions = torch.randint(0, s["positions"], (tokens,), dtype=torch.int32, device="cuda")
    rates = 10_000.0 ** -(torch.arange(half, device="cuda") / half)
    angles = torch.arange(s["positions"], device="cuda")[:, None] * rates
    tables = angles.cos(), angles.sin()

    def function(x, positions, cos, sin):
        cos, sin = cos[positions][:, None], sin[positions][:, None]
        if interleaved:
            first, second = x.float().unflatten(-1, (half, 2)).unbind(-1)
        else:
            first, second = x.float().unflatten(-1, (2, half)).unbind(-2)
        turned = first * cos - second * sin, second * cos + first * sin
        return torch.stack(turned, -1 if interleaved else -2).flatten(-2).to(x.dtype)

    reference = function(x.float(), positions, *tables)
    ours = {"x": x, "positions": positions, "cos": tables[0], "sin": tables[1]}
    made = Prepared(ours, "y", reference, bytes=2 * size_of(x) + size_of(positions, *tables))
    if "compile" in peers:
        fast = compiled(function)
        made.add("torch.compile", lambda: lambda: fast(x, positions, *tables))
    return made


def splitk_reduce(case, peers):
    s = case.sizes
    parts = draw(s["splits"], s["rows"], s["columns"], dtype=torch.float32)
    moved = size_of(parts) + 2.0 * s["rows"] * s["columns"]
    function = lambda parts: parts.sum(0).to(torch.bfloat16)
    made = Prepared({"parts": parts}, "out", parts.sum(0), bytes=moved)
    if "compile" in peers:
        fast = compiled(function)
        made.add("torch.compile", lambda: lambda: fast(parts))
    return made


def tilegym_matmul(lhs, rhs):
    from tilegym.ops.cutile import matmul

    return lambda: matmul.matmul(lhs, rhs, trans_b=True, static_persistent=True)


def tilegym_decode(q, k, v):
    from tilegym.ops.cutile import flash_decode

    return lambda: flash_decode.attention_decode(q, k, v, 1.0 / math.sqrt(q.shape[-1]), None)


def tilegym_fmha(q, k, v, causal):
    """TileGym's prefill kernel with the fastest of the tiles that its authors publish for any GPU."""
    from types import SimpleNamespace

    import cuda.tile as ct
    from cuda.tile.tune import exhaustive_search
    from tilegym.ops.cutile import attention

    batch, heads, queries, dim = q.shape
    keys, group = k.shape[2], heads // k.shape[1]
    out, stream = torch.empty_like(q), torch.cuda.current_stream()
    tiles = [(64, 64), (64, 128), (128, 64), (128, 128), (256, 64), (256, 128)]
    space = [SimpleNamespace(TILE_M=m, TILE_N=n, occupancy=o) for m, n in tiles for o in (1, 2)]

    def arguments(config):
        sizes = (keys - queries, dim, heads, config.TILE_M, config.TILE_N, group)
        return (q, k, v, out, 1.0 / math.sqrt(dim), *sizes, causal, keys % config.TILE_N == 0)

    grid = lambda config: (math.ceil(queries / config.TILE_M), batch * heads, 1)
    hints = lambda config: {"occupancy": config.occupancy}
    with ct.compiler_timeout(60):
        best = exhaustive_search(space, stream, grid, attention._fmha_kernel, arguments, hints).best.config
    kernel = attention._fmha_kernel.replace_hints(**hints(best))

    def run():
        ct.launch(stream, grid(best), kernel, arguments(best))
        return out

    return run


BUILDERS = {
    "gemm": gemm,
    "linear": linear,
    "batched": batched,
    "fmha": fmha,
    "decode": decode,
    "skinny": skinny,
    "rms_norm": rowwise(rms_norm, ("x", "weight")),
    "add_rms_norm": rowwise(add_rms_norm, ("x", "residual", "weight")),
    "layer_norm": rowwise(layer_norm, ("x", "weight", "bias")),
    "softmax": rowwise(softmax, ("x",)),
    "silu_and_mul": gated(F.silu),
    "gelu_and_mul": gated(functools.partial(F.gelu, approximate="tanh")),
    "rope": rope,
    "splitk_reduce": splitk_reduce,
}
