"""Start-up: which modules a command imports, and that deferred ones become real when they are used."""

from __future__ import annotations

import importlib
import importlib.metadata as metadata
import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers.models as models_module
from peft import LoraConfig
from PIL import Image
from transformers.utils.import_utils import define_import_structure

from joyimage.compat.deferred_imports import DEFERRED
from joyimage.compat.openmp import let_waiting_threads_sleep
from joyimage.compat.scans import Distributions
from joyimage.loading import load_pipeline
from tests import random_models


def run_program(program: str, *arguments: object) -> Any:
    """Run Python code in a process of its own, and return the JSON that it prints last."""
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_edit_when_run_as_a_command_then_imports_none_of_the_deferred_modules_and_gives_the_same_image(
    tmp_path: Path,
) -> None:
    image = random_models.make_image(0, 96, 96)
    image.save(tmp_path / "in.png")

    report = run_program(
        """
        import json, os, sys
        from joyimage.cli.main import main

        code = main()
        kinds = {name: type(module).__name__ for name, module in list(sys.modules.items())}
        print(json.dumps({"code": code, "kinds": kinds, "spins": os.environ.get("GOMP_SPINCOUNT")}))
        """,
        *("edit", tmp_path / "in.png", "Remove the heart.", "-o", tmp_path / "out.png", "--seed", 3),
        *("--model", "tiny", "--device", "cpu"),
    )

    assert report["code"] == 0
    # Threads that spin while another program has the core make an edit fifty times as slow.
    assert report["spins"] == "3000"
    pipe: Any = load_pipeline("tiny", device="cpu").pipe
    here = pipe(
        image=image,
        prompt="Remove the heart.",
        num_inference_steps=pipe.config["default_num_inference_steps"],
        guidance_scale=pipe.config["default_guidance_scale"],
        generator=torch.Generator().manual_seed(3),
    ).images[0]
    with Image.open(tmp_path / "out.png") as made:
        assert made.tobytes() == here.tobytes()
    assert report["kinds"]["torch"] == "module"
    for deferred in DEFERRED:
        assert report["kinds"].get(deferred.root, "_Proxy") == "_Proxy", deferred.root
        below = [name for name in report["kinds"] if name.startswith(deferred.root + ".")]
        assert {report["kinds"][name] for name in below} <= {"_Proxy"}, below
    for name in ("sklearn", "pandas", "matplotlib", "torchvision", "tensorflow"):
        assert name not in report["kinds"]


def test_deferred_modules_when_used_then_are_the_real_ones(tmp_path: Path) -> None:
    answers = run_program(
        """
        import json, sys
        from joyimage.compat.deferred_imports import defer_optional_imports, collection_paused
        defer_optional_imports()
        with collection_paused():
            import torch
            import diffusers.hooks.layerwise_casting as casting
            import diffusers.utils.torch_utils as torch_utils
            from joyimage.loading import load_pipeline
            pipe = load_pipeline("tiny", device="cpu").pipe
        @torch.compiler.disable
        def plain(x):
            return x + 1
        import gc
        answers = {"collects": gc.isenabled()}
        layer = pipe.transformer.double_blocks[0].attn.img_attn_qkv
        answers["before"] = [isinstance(layer, casting.BaseTunerLayer), torch_utils.is_compiled_module(layer)]

        import scipy.stats, scipy.optimize, scipy.integrate
        answers["scipy"] = [
            scipy.stats.norm.cdf(0.0),
            scipy.optimize.linear_sum_assignment([[1, 2], [2, 1]])[1].tolist(),
            scipy.integrate.quad(lambda x: 2 * x, 0, 1)[0],
        ]

        import peft.tuners.lokr  # registers itself, which it can do once
        answers["spec"] = peft.tuners.lokr.__spec__.origin is not None
        from peft import LoraConfig
        pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["img_attn_qkv"]))
        pipe.transformer.save_lora_adapter(sys.argv[1])
        pipe.load_lora_weights(sys.argv[1], adapter_name="again")
        layer = pipe.transformer.double_blocks[0].attn.img_attn_qkv
        with casting.disable_input_dtype_casting(pipe.transformer):
            answers["peft"] = [
                isinstance(layer, casting.BaseTunerLayer),
                isinstance(torch.nn.Linear(1, 1), casting.BaseTunerLayer),
                sorted(layer.lora_A),
            ]

        from diffusers.models.attention import BasicTransformerBlock  # marked by allow_in_graph
        graphs = []
        def count(module, inputs):
            graphs.append(module)
            return module.forward
        compiled = torch.compile(lambda x: plain(x * 2) * 3, backend=count)
        answers["compile"] = [compiled(torch.ones(1)).item(), len(graphs)]
        module = torch.compile(torch.nn.Linear(1, 1), backend=count)
        answers["compiled"] = torch_utils.is_compiled_module(module)
        answers["marked"] = id(BasicTransformerBlock) in torch._dynamo.trace_rules._allowed_callable_ids
        print(json.dumps(answers))
        """,
        tmp_path,
    )

    assert answers["collects"] is True
    assert answers["before"] == [False, False]
    assert answers["scipy"] == [0.5, [0, 1], 1.0]
    assert answers["spec"] is True
    assert answers["peft"] == [True, False, ["again", "default"]]
    assert answers["compile"] == [9.0, 2]  # two graphs: the plain function in between is in none
    assert answers["compiled"] is True
    assert answers["marked"] is True


def test_deferred_names_when_installed_libraries_change_then_each_still_exists() -> None:
    kinds = ("functions", "classes", "marks", "wrappers")
    names = [name for deferred in DEFERRED for kind in kinds for name in getattr(deferred, kind)]
    places = {name: name.rpartition(".") for name in names}  # nothing is deferred in this process

    missing = [
        name
        for name, (module, _, attribute) in places.items()
        if not hasattr(importlib.import_module(module), attribute)
    ]

    assert names
    assert missing == []
    assert not any(type(finder).__module__.startswith("joyimage") for finder in sys.meta_path)


def test_library_when_imported_then_import_system_stays_as_it_is() -> None:
    report = run_program(
        """
        import gc, json, sys
        finders = list(sys.meta_path)
        import joyimage.loading
        pipe = joyimage.loading.load_pipeline("tiny", device="cpu").pipe
        ours = [finder for finder in sys.meta_path if type(finder).__module__.startswith("joyimage")]
        print(json.dumps([len(ours), gc.get_freeze_count(), type(sys.modules["torch._dynamo"]).__name__]))
        """
    )

    assert report == [0, 0, "module"]


@pytest.mark.parametrize("setting", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_waiting_threads_when_the_user_says_how_they_wait_then_that_stays(setting: str) -> None:
    environment = {setting: "active"}

    let_waiting_threads_sleep(environment)

    assert environment == {setting: "active"}


def test_help_when_run_as_a_command_then_imports_no_torch() -> None:
    report = run_program(
        """
        import json, sys
        from joyimage.cli.main import main

        sys.argv = ["joyimage", "edit", "--help"]
        code = main()
        print()
        print(json.dumps([code, sorted({"torch", "diffusers", "transformers", "numpy"} & set(sys.modules))]))
        """
    )

    assert report == [0, []]


def test_module_when_run_then_is_the_command() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "joyimage", "edit", "--help"], capture_output=True, text=True, check=False
    )

    assert run.returncode == 0, run.stderr
    assert "Usage: joyimage edit" in run.stdout


def test_command_when_it_ends_then_python_has_no_objects_left_to_look_for_cycles_in() -> None:
    looked_at, left_out = run_program(
        """
        import atexit, gc, json, sys
        from joyimage.cli.main import main

        def report():
            print(json.dumps([len(gc.get_objects()), gc.get_freeze_count()]))

        atexit.register(report)  # the first one is called last
        sys.argv = ["joyimage", "--version"]
        main()
        """
    )

    assert looked_at < 100 < left_out


def test_edit_when_run_as_a_command_with_several_adapters_then_prints_no_warning(tmp_path: Path) -> None:
    random_models.make_image(0, 96, 96).save(tmp_path / "in.png")
    model: Any = load_pipeline("tiny", device="cpu").pipe.transformer
    model.add_adapter(LoraConfig(r=2, target_modules=["img_attn_qkv"], init_lora_weights=False))
    model.save_lora_adapter(tmp_path / "ink")
    shutil.copytree(tmp_path / "ink", tmp_path / "wash")

    run = subprocess.run(
        [
            *(sys.executable, "-m", "joyimage.cli.main", "edit", tmp_path / "in.png", "Remove the heart."),
            *("-o", tmp_path / "out.png", "--model", "tiny", "--device", "cpu"),
            *("--lora", tmp_path / "ink", "--lora", f"{tmp_path / 'wash'}:0.5"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    assert "peft" not in run.stderr


@pytest.mark.parametrize("command", [("edit", "in.png", "x", "-o", "out.png"), ("eval", "tiny")])
def test_command_when_it_loads_a_model_then_says_so_before_torch_is_imported(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    random_models.make_image(0, 96, 96).save(tmp_path / "in.png")
    command = tuple(str(tmp_path / part) if part.endswith(".png") else part for part in command)

    lines = run_program(
        """
        import contextlib, io, json, sys
        from joyimage.cli.main import main

        class Witness:
            def find_spec(self, name, path, target=None):
                if name == "torch":
                    print("torch is imported", file=sys.stderr)

        sys.meta_path.insert(0, Witness())
        with contextlib.redirect_stderr(io.StringIO()) as printed:
            main()
        print(json.dumps(printed.getvalue().splitlines()))
        """,
        *(*command, "--model", tmp_path / "missing"),
    )

    assert lines[0] == f"Loading {tmp_path / 'missing'} ..."
    assert lines.index("torch is imported") == 1
    assert lines[-1].startswith(f"There is no folder {tmp_path / 'missing'}")


def test_distributions_when_looked_up_then_the_installed_version_and_the_whole_list_only_where_needed() -> (
    None
):
    built: list[int] = []

    def build() -> Any:
        built.append(1)
        return real

    real = metadata.packages_distributions()
    found = Distributions(build)

    assert found
    for name in ("torch", "numpy", "transformers", "diffusers", "peft"):
        assert found[name] == real[name]
    assert found.get("", []) == []
    assert len(built) == 1, "only the empty name is no distribution"
    assert found["PIL"] == real["PIL"]
    assert {name: found[name] for name in found} == real
    assert len(built) == 1
    assert "no_such_package" not in found


def test_command_when_it_loads_a_model_then_installed_files_are_scanned_once() -> None:
    counts = run_program(
        """
        import builtins, importlib.metadata, json, os
        from collections import Counter
        from joyimage.compat.deferred_imports import collection_paused, defer_optional_imports

        lists, opened = [], Counter()
        build, read = importlib.metadata.packages_distributions, builtins.open
        importlib.metadata.packages_distributions = lambda: lists.append(1) or build()

        def count(file, *arguments, **options):
            opened[str(file)] += 1
            return read(file, *arguments, **options)

        builtins.open = count
        defer_optional_imports()
        with collection_paused():
            from transformers.models.auto.configuration_auto import AutoConfig
            from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
            from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration
        models = [name for name in opened if "/transformers/models/" in name]
        from transformers.utils import import_utils
        folder = import_utils.__file__.replace("utils/import_utils", "models/__init__")
        structure = import_utils.define_import_structure(folder)
        print(json.dumps({
            "lists": len(lists), "models": len(models), "most": max(opened[name] for name in models),
            "loader": type(import_utils.__spec__.loader).__name__,
            "names": sorted(name for one in structure.values() for names in one.values() for name in names),
        }))
        """
    )

    names = define_import_structure(str(Path(models_module.__file__ or "")))
    assert counts["lists"] == 0
    assert counts["models"] > 500
    assert counts["most"] == 1
    assert counts["loader"] == "SourceFileLoader"
    assert counts["names"] == sorted(
        name for one in names.values() for found in one.values() for name in found
    )
