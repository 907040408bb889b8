#!/usr/bin/env python3
"""An export of quad under the real ONNX Runtime: its checker, its adapter files, its outputs, and the encodings' names.

    tests/clients/onnxruntime_adapters.py --quad PATH

Exports the committed example with two adapters. Every .onnx_adapter holds what the .safetensors holds, bit for bit, for exactly the
graph's LoRA inputs; run as an active adapter and as plain inputs it gives the same bits, which are the simulator's within 1e-3 of the
range; every encoding belongs to a tensor of the float graph. Ends with "N passed, N failed, N skipped"; exit 1 when anything
fails, 77 where onnxruntime, onnx, numpy or safetensors cannot be imported.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
MODEL = os.path.join(ROOT, "scripts", "example", "model")
ADAPTERS = {name: os.path.join(ROOT, "scripts", "example", "adapters", f"{name}.safetensors") for name in ("night", "sketch")}
# Roundings that fall to the other side of a step: what the project allows between an export and the simulator.
TOLERANCE = 1e-3

counts = {"passed": 0, "failed": 0}


def check(what, good, detail=""):
    counts["passed" if good else "failed"] += 1
    print(f"{'ok  ' if good else 'FAIL'} {what}{': ' if detail else ''}{detail}")


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr}")


def make(quad, folder, numpy, save_file):
    """Writes inputs, profile.json, export/ and NAME-simulated.safetensors; returns the inputs."""
    random = numpy.random.default_rng(5)

    def normal(*shape):
        return random.standard_normal(shape).astype(numpy.float32)

    inputs = {"sample": normal(2, 25, 32, 32), "timestep": numpy.array([501, 37], numpy.float32), "encoder_hidden_states": normal(2, 8, 48)}
    save_file(inputs, f"{folder}/inputs.safetensors")
    given = [option for name, path in ADAPTERS.items() for option in ("--adapter", f"{name}={path}")]
    # Calibrated on the inputs themselves: values outside the range would only measure clipping.
    run(quad, "qss", "--base", MODEL, *given, "--calib", f"{folder}/inputs.safetensors", "-q", "-o", f"{folder}/profile.json")
    run(quad, "export", "--base", MODEL, "--profile", f"{folder}/profile.json", *given, "--batch", "2", "--tokens", "8", "--format", "both",
        "-q", "-o", f"{folder}/export")
    for name, path in ADAPTERS.items():
        run(quad, "eval", "--base", MODEL, "--profile", f"{folder}/profile.json", "--adapter", f"{name}={path}", "--inputs",
            f"{folder}/inputs.safetensors", "-q", "-o", f"{folder}/{name}-simulated.safetensors")
    return inputs


def check_adapter(ort, numpy, load_file, folder, session, inputs, name):
    stem = f"{folder}/export/adapters/{name}"
    stored = load_file(f"{stem}.safetensors")
    values = ort.AdapterFormat.read_adapter(f"{stem}.onnx_adapter").get_parameters()
    read = {key: value.numpy() for key, value in values.items()}  # views, which live as long as `values`
    same = read.keys() == stored.keys() and all(
        read[key].dtype == stored[key].dtype and numpy.array_equal(read[key], stored[key]) for key in read)
    check(f"{name}.onnx_adapter holds what {name}.safetensors holds", same, f"{len(read)} tensors")
    lora = {value.name for value in session.get_inputs()} - inputs.keys()
    check(f"{name}.onnx_adapter is for the graph's LoRA inputs", read.keys() == lora)
    plain = session.run(["out"], {**inputs, **stored})[0]
    adapter, options = ort.LoraAdapter(), ort.RunOptions()
    adapter.Load(f"{stem}.onnx_adapter")
    options.add_active_adapter(adapter)
    # InferenceSession.run itself asks for every input before it looks at the adapters; the call below it does not.
    active = session._sess.run(["out"], inputs, options)[0]
    check(f"{name}: active adapter and plain inputs give the same bits", numpy.array_equal(plain, active))
    want = load_file(f"{folder}/{name}-simulated.safetensors")["out"]
    difference = float(numpy.abs(active - want).max() / (want.max() - want.min()))
    check(f"{name}: ONNX Runtime and the simulator agree", difference <= TOLERANCE, f"{difference:.2g} of the range")


def check_encodings(onnx, folder):
    graph = onnx.load(f"{folder}/export/model_float.onnx").graph
    weights = {value.name: list(value.dims) for value in graph.initializer}
    values = {value.name for value in graph.input} | {name for node in graph.node for name in node.output}
    with open(f"{folder}/export/model.encodings.json", encoding="utf-8") as file:
        encodings = json.load(file)
    for kind, known in (("activation_encodings", values | weights.keys()), ("param_encodings", weights.keys() | values)):
        unknown = [e["name"] for e in encodings[kind] if e["name"] not in known]
        check(f"{kind} belong to tensors of the float graph", not unknown, f"{len(encodings[kind])} encodings {unknown[:3] or ''}")
    wrong = [e["name"] for e in encodings["param_encodings"] if e["enc_type"] == "PER_CHANNEL" and e["name"] in weights
             and len(e["scale"]) not in weights[e["name"]]]
    check("per-channel encodings have as many scales as channels", not wrong, " ".join(wrong[:3]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quad", default="build/quad")
    args = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        import numpy
        import onnx
        import onnxruntime as ort
        from safetensors.numpy import load_file, save_file
    except ImportError as error:
        print(f"{error}: skipped")
        return 77
    with tempfile.TemporaryDirectory() as folder:
        inputs = make(args.quad, folder, numpy, save_file)
        for name in ("model.onnx", "model_float.onnx"):
            onnx.checker.check_model(f"{folder}/export/{name}", full_check=True)
            check(f"{name} passes onnx.checker", True)
        session = ort.InferenceSession(f"{folder}/export/model.onnx", providers=["CPUExecutionProvider"])
        for name in ADAPTERS:
            check_adapter(ort, numpy, load_file, folder, session, inputs, name)
        check_encodings(onnx, folder)
    print(f"onnxruntime {ort.__version__}, onnx {onnx.__version__}")
    print(f"{counts['passed']} passed, {counts['failed']} failed, 0 skipped")
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
