# One row a train sample: how harmful, and what its label should be.
def relabelling():
    """Gradients under every label, where the task gives labels."""
    return shards_of("candidates", "flat", "train") if PLAN.labelled else []


rule scores:
    input:
        flat=shards_of("gradients", "flat", "train"),
        trained=shards_of("gradients", "trained", "train"),
        candidates=relabelling(),
        at_flat="results/curvature/flat-validation.json",
        at_trained="results/curvature/trained-train.json",
        vectors="results/vectors/trained.json",
    output:
        manifest="results/scores/scores.json",
    params:
        config=sections("scores"),
        code=code("scores"),
        content=content("train"),
    log:
        "logs/scores.log",
    benchmark:
        "benchmarks/scores.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=4000,
    shell:
        "{LOWLAND} stage scores --config {params.config:q} 2>&1 | tee {log:q}"
