# How likely each given label is wrong: flat minima of folds of the validation rows, the model, and what other rows say.
rule folds:
    input:
        trained="results/checkpoints/trained.json",
        flat="results/checkpoints/flat.json",
    output:
        manifest="results/checkpoints/folds.json",
    log:
        "logs/folds.log",
    benchmark:
        "benchmarks/folds.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=memory("folds"),
        runtime=minutes("folds"),
    params:
        config=sections("folds"),
        code=code("folds"),
        content=content("validation"),
    shell:
        "lowland stage folds {TASK} --config {params.config:q} 2>&1 | tee {log:q}"


rule posterior:
    input:
        trained="results/checkpoints/trained.json",
        folds="results/checkpoints/folds.json",
    output:
        manifest="results/posterior/posterior.json",
    log:
        "logs/posterior.log",
    benchmark:
        "benchmarks/posterior.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=memory("posterior"),
        runtime=minutes("posterior"),
    params:
        config=sections("posterior"),
        code=code("posterior"),
        retired=retired(),
        content=content("train"),
    shell:
        "lowland stage posterior --memory-mb {MEMORY_MB} {TASK} --config {params.config:q} 2>&1 | tee {log:q}"
