# One row a train sample: how harmful, and what its label should be.
rule scores:
    input:
        gradients=gradients_scored(),
        solved=solved(),
        ensemble=ensemble_losses(),
        candidates=relabelling(),
        at_flat="results/curvature/flat-validation.json",
        at_trained="results/curvature/trained-train.json",
        posterior=posterior(),
    output:
        manifest="results/scores/scores.json",
    log:
        "logs/scores.log",
    benchmark:
        "benchmarks/scores.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=memory("scores"),
        runtime=minutes("scores"),
    params:
        config=sections("scores"),
        code=code("scores"),
        retired=retired(),
        content=content("train"),
    shell:
        "lowland stage scores --config {params.config:q} {SCAN} 2>&1 | tee {log:q}"
