# Scores against true labels: the only stage that reads them.
rule evaluate:
    input:
        scores="results/scores/scores.json",
        trained="results/checkpoints/trained.json",
        flat="results/checkpoints/flat.json",
        candidates=relabelling_judged(),
    output:
        mislabel="results/evaluation/mislabel.json",
    log:
        "logs/evaluate.log",
    benchmark:
        "benchmarks/evaluate.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=memory("evaluate"),
        runtime=minutes("evaluate"),
    params:
        config=sections("evaluate"),
        code=code("evaluate"),
        truth=f"truth {PLAN.truth}",
    shell:
        "lowland stage evaluate {TASK} --config {params.config:q} 2>&1 | tee {log:q}"
