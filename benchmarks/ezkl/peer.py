"""EZKL as the peer: `python peer.py MODEL FOLDER`, run by EZKL's own environment.

Models are made of random weights with the true shapes, as ONNX: `iris-ols`, `lenet` (average pools). Settings: 7 bits
of fraction, numbers taken apart in the digits that were quickest, weights fixed, inputs public, calibrated for few
resources; the reference string is made here. Set-up is not counted. Prints one JSON object: seconds, CPU-seconds and
memory of proving, seconds of verifying, rows.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import ezkl

RNG = np.random.default_rng(9)
SCALE = 7
DIGITS = {"iris-ols": (1 << 4, 6, 6), "lenet": (1 << 14, 2, 17)}  # base and number of digits, rows (log)


def linear(before: int, after: int, number: int, x: str, y: str) -> tuple[list[Any], list[Any]]:
    weights = {
        f"w{number}": RNG.normal(size=(before, after)) / np.sqrt(before),
        f"b{number}": RNG.normal(size=after) / 8,
    }
    return [helper.make_node("Gemm", [x, *weights], [y])], _initializers(weights)


def convolution(before: int, after: int, pad: int, number: int, x: str, y: str) -> tuple[list[Any], list[Any]]:
    weights = {
        f"w{number}": RNG.normal(size=(after, before, 5, 5)) / np.sqrt(25 * before),
        f"b{number}": np.zeros(after),
    }
    nodes = [
        helper.make_node("Conv", [x, *weights], [f"c{number}"], kernel_shape=[5, 5], strides=[1, 1], pads=[pad] * 4),
        helper.make_node("Relu", [f"c{number}"], [f"r{number}"]),
        helper.make_node("AveragePool", [f"r{number}"], [y], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    return nodes, _initializers(weights)


def lenet() -> tuple[list[Any], list[Any], list[int], list[int]]:
    parts = [
        convolution(1, 6, 2, 0, "x", "p0"),
        convolution(6, 16, 0, 1, "p0", "p1"),
        ([helper.make_node("Flatten", ["p1"], ["f"])], []),
        linear(400, 120, 2, "f", "s2"),
        ([helper.make_node("Relu", ["s2"], ["r2"])], []),
        linear(120, 84, 3, "r2", "s3"),
        ([helper.make_node("Relu", ["s3"], ["r3"])], []),
        linear(84, 10, 4, "r3", "y"),
    ]
    return (
        [n for nodes, _ in parts for n in nodes],
        [w for _, weights in parts for w in weights],
        [1, 1, 28, 28],
        [1, 10],
    )


def ols() -> tuple[list[Any], list[Any], list[int], list[int]]:
    return *linear(4, 1, 0, "x", "y"), [1, 4], [1, 1]


MODELS = {"iris-ols": ols, "lenet": lenet}


def _initializers(weights: dict[str, Any]) -> list[Any]:
    return [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]


def step(name: str, arguments: dict[str, Any]) -> None:
    """Do one step in this process, so that its memory is its own."""
    if name == "gen_settings":
        settings = ezkl.PyRunArgs()
        for key, value in arguments.pop("settings").items():
            setattr(settings, key, value)
        arguments["py_run_args"] = settings

    async def go() -> object:
        result = getattr(ezkl, name)(**arguments)
        return await result if inspect.isawaitable(result) else result

    before, start = _cpu(), time.perf_counter()
    asyncio.run(go())
    took = {"s": time.perf_counter() - start, "cpu_s": _cpu() - before}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("\n@" + json.dumps(took | {"rss_mb": peak}))


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def run(name: str, **arguments: object) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--step", name, json.dumps(arguments)], capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("@")]
    if done.returncode or not lines:
        raise SystemExit(f"EZKL's {name} failed: {done.stderr[-500:]}")
    return json.loads(lines[-1][1:])


def main(model: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    nodes, weights, shape, out = MODELS[model]()
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", shape), ("y", out))]
    graph = helper.make_graph(nodes, model, values[:1], values[1:], weights)
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(net)
    name = {
        key: str(folder / f"{model}.{key}") for key in ("onnx", "json", "settings", "ezkl", "vk", "pk", "wit", "pf")
    }
    onnx.save(net, name["onnx"])
    numbers = RNG.uniform(0, 1, int(np.prod(shape))).tolist()
    Path(name["json"]).write_text(json.dumps({"input_shapes": [shape], "input_data": [numbers]}))
    settings = {"param_visibility": "fixed", "input_visibility": "public", "output_visibility": "public"}
    base, digits, rows = DIGITS[model]
    settings |= {"input_scale": SCALE, "param_scale": SCALE, "logrows": rows, "num_inner_cols": 2}
    settings |= {"decomp_base": base, "decomp_legs": digits}
    run("gen_settings", model=name["onnx"], output=name["settings"], settings=settings)
    calibration = {"data": name["json"], "model": name["onnx"], "settings": name["settings"], "target": "resources"}
    run("calibrate_settings", **calibration, max_logrows=20, scales=[SCALE])
    found = json.loads(Path(name["settings"]).read_text())
    log = found["run_args"]["logrows"]
    srs = str(folder / f"kzg{log}.srs")
    run("compile_circuit", model=name["onnx"], compiled_circuit=name["ezkl"], settings_path=name["settings"])
    run("gen_srs", srs_path=srs, logrows=log)
    run("setup", model=name["ezkl"], vk_path=name["vk"], pk_path=name["pk"], srs_path=srs)
    run("gen_witness", data=name["json"], model=name["ezkl"], output=name["wit"], vk_path=name["vk"], srs_path=srs)
    made = run(
        "prove", witness=name["wit"], model=name["ezkl"], pk_path=name["pk"], proof_path=name["pf"], srs_path=srs
    )
    checked = run("verify", proof_path=name["pf"], settings_path=name["settings"], vk_path=name["vk"], srs_path=srs)
    print(json.dumps(made | {"verify_s": checked["s"], "rows": found["num_rows"]}))


if __name__ == "__main__":
    step(sys.argv[2], json.loads(sys.argv[3])) if sys.argv[1] == "--step" else main(sys.argv[1], Path(sys.argv[2]))
