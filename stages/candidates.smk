# Gradients under every label, for relabelling; where the classes are many, or by option, of the suspects only.
def only_suspects():
    """Whether only the suspects among the train rows get candidates."""
    many = len(PLAN.classes) > CONFIG.candidates.max_classes
    return many or CONFIG.candidates.rows == "suspects"


def suspects(wildcards):
    """The list of suspects, where only they count."""
    wanted = wildcards.split == "train" and only_suspects()
    return ["results/candidates/suspects.json"] if wanted else []


rule suspects:
    input:
        gradients=shards_of("gradients", "flat", "train"),
        curvature="results/curvature/flat-validation.json",
    output:
        manifest="results/candidates/suspects.json",
    params:
        config=sections("suspects"),
        code=code("suspects"),
    log:
        "logs/suspects.log",
    benchmark:
        "benchmarks/suspects.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=4000,
    shell:
        "{LOWLAND} stage suspects --config {params.config:q} 2>&1 | tee {log:q}"


rule candidates:
    input:
        suspects,
        checkpoint="results/checkpoints/{checkpoint}.json",
        projection="results/projection/{checkpoint}.json",
    output:
        manifest="results/candidates/{checkpoint}/{split}/{shard}.json",
    params:
        config=sections("candidates"),
        code=code("candidates"),
        rows=rows,
    log:
        "logs/candidates/{checkpoint}/{split}/{shard}.log",
    benchmark:
        "benchmarks/candidates/{checkpoint}/{split}/{shard}.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=4000,
    shell:
        "{LOWLAND} stage candidates --checkpoint {wildcards.checkpoint} --split {wildcards.split}"
        " --shard {wildcards.shard} --config {params.config:q} 2>&1 | tee {log:q}"
