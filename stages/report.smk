# The page. It shows the evaluation where true labels are known.
rule report:
    input:
        evaluation(),
        scores="results/scores/scores.json",
        topk="results/query/topk.json",
        flat="results/checkpoints/flat.json",
    output:
        manifest="results/report/index.json",
    log:
        "logs/report.log",
    benchmark:
        "benchmarks/report.tsv"
    threads: 1
    resources:
        mem_mb=memory("report"),
        runtime=minutes("report"),
    params:
        config=sections("report"),
        code=code("report"),
        retired=retired(),
        evaluated=evaluated(),
        content=content("train", "validation", "query"),
    shell:
        "lowland stage report {TASK} --config {params.config:q} 2>&1 | tee {log:q}"
