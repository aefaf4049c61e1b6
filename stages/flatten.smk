# The flat validation minimum, from the trained weights and the clean validation rows.
rule flatten:
    input:
        trained="results/checkpoints/trained.json",
    output:
        manifest="results/checkpoints/flat.json",
    log:
        "logs/flatten.log",
    benchmark:
        "benchmarks/flatten.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=memory("flatten"),
        runtime=minutes("flatten"),
    params:
        config=sections("flatten"),
        code=code("flatten"),
        content=content("validation"),
    shell:
        "lowland stage flatten {TASK} --config {params.config:q} 2>&1 | tee {log:q}"
