"""SecretFlow-SPU as the peer: `python peer.py MODEL [--length N] [--runs N]`, run by SPU's own environment.

The settings are PUMA's: three parties, ABY3 in a 64-bit ring with 18 bits of fraction, piecewise polynomials for GELU
and SiLU, exp cut off at -14. The parties are threads of one process that talk through memory: no network is counted
against it. Prints one JSON object: CPU-seconds of all parties together, seconds, bytes and sends of
each run, and the error against exact floats.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import shapes
import spu.api as spu_api
from spu.utils import frontend

from spu import libspu

PARTIES = 3
MODELS = ["bert", "gpt2", "gpt2-token", "llama15m"]


# --- the models, in the clear or compiled by SPU ---


class Functions:
    """What is not linear: exact, or as PUMA approximates it."""

    def __init__(self, *, exact: bool) -> None:
        self.exact = exact

    def softmax(self, x: Any, mask: Any = None) -> Any:
        if self.exact:
            return jax.nn.softmax(x if mask is None else jnp.where(mask, x, -1e9), axis=-1)
        x = x if mask is None else x + jnp.where(mask, 0.0, -1000.0)
        x = x - jnp.max(x, axis=-1, keepdims=True)
        powers = jnp.exp(x) * (x > -14.0)
        return powers / jnp.sum(powers, axis=-1, keepdims=True)

    def gelu(self, x: Any) -> Any:
        if self.exact:
            return jax.nn.gelu(x, approximate=False)
        low, left, right = x < -4.0, x < -1.95, x > 3.0
        x2 = jnp.square(x)
        x4 = jnp.square(x2)
        cubic = -0.011034134030615728 * x * x2 - 0.11807612951181953 * x2 - 0.42226581151983866 * x - 0.5054031199708174
        even = 0.0018067462606141187 * x2 * x4 - 0.037688200365904236 * x4 + 0.3603292692789629 * x2
        middle = even + 0.5 * x + 0.008526321541038084
        return right * x + (low ^ left) * cubic + (left ^ right ^ True) * middle

    def silu(self, x: Any) -> Any:
        if self.exact:
            return jax.nn.silu(x)
        low, left, right = x < -8.0, x < -4.0, x > 4.0
        x2 = jnp.square(x)
        x4 = jnp.square(x2)
        square = -0.0055465625580307 * x2 - 0.0819767021525476 * x - 0.3067541139982155
        even = 0.0002743776353465 * x2 * x4 - 0.011113046708173 * x4 + 0.228143084172827 * x2
        return right * x + (low ^ left) * square + (left ^ right ^ True) * (even + 0.5 * x + 0.0085064025895951)


def layer_norm(x: Any, gain: Any, bias: Any) -> Any:
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + 1e-5) * gain + bias


def rms_norm(x: Any, gain: Any) -> Any:
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-5) * gain


def heads_of(x: Any, heads: int) -> Any:
    return jnp.transpose(x.reshape(x.shape[0], heads, -1), (1, 0, 2))


def attention(f: Functions, q: Any, k: Any, v: Any, mask: Any = None) -> Any:
    scores = (q @ jnp.transpose(k, (0, 2, 1))) * (q.shape[-1] ** -0.5)
    return jnp.transpose(f.softmax(scores, mask) @ v, (1, 0, 2)).reshape(q.shape[1], -1)


def bert(f: Functions, weights: Any, rows: Any) -> Any:
    x = layer_norm(rows @ weights["emb"] + weights["pos"], weights["ge"], weights["he"])
    for w in weights["layers"]:
        q, k, v = (heads_of(x @ w["w" + n] + w["b" + n], 12) for n in "qkv")
        x = layer_norm(x + attention(f, q, k, v) @ w["wo"] + w["bo"], w["g1"], w["h1"])
        x = layer_norm(x + f.gelu(x @ w["w1"] + w["c1"]) @ w["w2"] + w["c2"], w["g2"], w["h2"])
    return jnp.tanh(x[0] @ weights["wp"] + weights["bp"]) @ weights["wc"] + weights["bc"]


def gpt2(f: Functions, weights: Any, rows: Any, cache: Any = None) -> Any:
    count, before = rows.shape[0], 0 if cache is None else cache.shape[3]
    mask = jnp.asarray(np.tril(np.ones((count, count), bool))) if count > 1 else None
    x = rows @ weights["emb"] + weights["pos"][before : before + count]
    for index, w in enumerate(weights["layers"]):
        n = layer_norm(x, w["g1"], w["h1"])
        q, k, v = (heads_of(n @ w["w" + c] + w["b" + c], 12) for c in "qkv")
        if cache is not None:
            k, v = (jnp.concatenate([cache[index, which], new], axis=1) for which, new in ((0, k), (1, v)))
        x = x + attention(f, q, k, v, mask) @ w["wo"] + w["bo"]
        n = layer_norm(x, w["g2"], w["h2"])
        x = x + f.gelu(n @ w["w1"] + w["c1"]) @ w["w2"] + w["c2"]
    return layer_norm(x[-1:], weights["gf"], weights["hf"]) @ weights["emb"].T


def llama(f: Functions, weights: Any, rows: Any) -> Any:
    count, heads = rows.shape[0], 6
    half = weights["emb"].shape[1] // heads // 2
    angles = np.arange(count)[:, None] * 10000.0 ** (-np.arange(half) / half)[None, :]
    cos, sin = jnp.asarray(np.cos(angles), jnp.float32), jnp.asarray(np.sin(angles), jnp.float32)

    def turned(x: Any) -> Any:
        first, second = x[..., :half], x[..., half:]
        return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    mask = jnp.asarray(np.tril(np.ones((count, count), bool)))
    x = rows @ weights["emb"]
    for w in weights["layers"]:
        n = rms_norm(x, w["g1"])
        q, k, v = (heads_of(n @ w["w" + c], heads) for c in "qkv")
        x = x + attention(f, turned(q), turned(k), v, mask) @ w["wo"]
        n = rms_norm(x, w["g2"])
        x = x + (f.silu(n @ w["w1"]) * (n @ w["w3"])) @ w["w2"]
    return rms_norm(x[-1:], weights["gf"]) @ weights["emb"].T


def program(name: str, length: int, layers: int | None) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return a function of (Functions, *inputs), and its inputs."""
    more = {} if layers is None else {"layers": layers}
    if name == "gpt2-token":
        weights, ids = shapes.gpt2(1, **more)
        return gpt2, (weights, rows_of(ids, weights), shapes.gpt2_cache(length, **more))
    weights, ids = getattr(shapes, name)(length, **more)
    return {"bert": bert, "gpt2": gpt2, "llama15m": llama}[name], (weights, rows_of(ids, weights))


def rows_of(ids: np.ndarray, weights: Any) -> np.ndarray:
    return np.eye(len(weights["emb"]), dtype=np.float32)[ids]


# --- SPU ---


def settings() -> Any:
    config = libspu.RuntimeConfig(protocol=libspu.ProtocolKind.ABY3, field=libspu.FieldType.FM64, fxp_fraction_bits=18)
    config.fxp_exp_mode = libspu.RuntimeConfig.ExpMode.EXP_TAYLOR
    config.fxp_exp_iters = 5
    config.enable_pphlo_profile = True  # it reports the bytes
    return config


def compiled(function: Callable[..., Any], inputs: tuple[Any, ...]) -> tuple[Any, list[str], list[np.ndarray]]:
    flat, _ = jax.tree_util.tree_flatten((inputs, {}))
    names = [f"in{index}" for index in range(len(flat))]
    options = libspu.CompilerOptions()
    options.enable_optimize_denominator_with_broadcast = True
    executable, _ = frontend.compile(
        frontend.Kind.JAX, function, inputs, {}, names, [libspu.Visibility.VIS_SECRET] * len(flat),
        lambda outputs: [f"out{index}" for index in range(len(outputs))], copts=options,
    )  # fmt: skip
    return executable, names, [np.asarray(array) for array in flat]


def run(executable: Any, names: list[str], arrays: list[np.ndarray], runs: int) -> dict[str, Any]:
    """Run it with three threads over memory; return the output and what it cost."""
    io = spu_api.Io(PARTIES, settings())
    shares = [list(io.make_shares(array, libspu.Visibility.VIS_SECRET)) for array in arrays]
    link, outputs = libspu.link.Desc(), [None] * PARTIES
    for rank in range(PARTIES):
        link.add_party(f"p{rank}", f"thread{rank}")
    together, seconds, cpu = threading.Barrier(PARTIES), [], []

    def party(rank: int) -> None:
        runtime = spu_api.Runtime(libspu.link.create_mem(link, rank), settings())
        for name, share in zip(names, shares, strict=True):
            runtime.set_var(name, share[rank])
            share[rank] = None  # the runtime has copied it
        for _ in range(runs):
            together.wait()
            start, used = time.perf_counter(), time.process_time()
            runtime.run(executable)
            together.wait()
            if rank == 0:
                seconds.append(time.perf_counter() - start)
                cpu.append(time.process_time() - used)
        outputs[rank] = runtime.get_var(executable.output_names[0])

    threads = [threading.Thread(target=party, args=(rank,)) for rank in range(PARTIES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"output": np.array(io.reconstruct(outputs)), "seconds": seconds, "cpu_s": cpu}


def with_log(work: Callable[[], Any]) -> tuple[Any, str]:
    """Call it, and return also what SPU's C++ printed meanwhile."""
    with tempfile.TemporaryFile("w+") as log:
        saved = os.dup(1), os.dup(2)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            result = work()
        finally:
            for number, descriptor in enumerate(saved, 1):
                os.dup2(descriptor, number)
                os.close(descriptor)
        log.seek(0)
        return result, log.read()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--length", type=int, default=128, help="tokens; for gpt2-token the cached ones")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--runs", type=int, default=1)
    arguments = parser.parse_args()
    function, inputs = program(arguments.model, arguments.length, arguments.layers)
    exact = np.asarray(function(Functions(exact=True), *inputs))
    executable, names, arrays = compiled(lambda *given: function(Functions(exact=False), *given), inputs)
    result, log = with_log(lambda: run(executable, names, arrays, arguments.runs))
    details = re.findall(r"Link details: total send bytes (\d+), recv bytes \d+, send actions (\d+)", log)
    error = np.abs(result["output"] - exact)
    print(
        json.dumps(
            {
                "model": arguments.model,
                "length": arguments.length,
                "cpu_s": [round(value, 3) for value in result["cpu_s"]],
                "seconds": [round(value, 3) for value in result["seconds"]],
                "sent_bytes": sum(int(sent) for sent, _ in details) / arguments.runs,
                "sends": max((int(actions) for _, actions in details), default=0),
                "max_error": float(error.max()),
                "mean_error": float(error.mean()),
                "same_argmax": bool(result["output"].argmax() == exact.argmax()),
                "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
            }
        )
    )


if __name__ == "__main__":
    main()
