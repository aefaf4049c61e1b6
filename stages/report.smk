# The page. It shows the evaluation where true labels are known.
def evaluation():
    """The evaluation, where it is wanted and possible."""
    wanted = CONFIG.report.evaluation and PLAN.truth and PLAN.classes
    return ["results/evaluation/mislabel.json"] if wanted else []


rule report:
    input:
        evaluation(),
        scores="results/scores/scores.json",
        topk="results/query/topk.json",
        flat="results/checkpoints/flat.json",
    output:
        manifest="results/report/index.json",
    params:
        config=sections("report"),
        code=code("report"),
        content=content("train", "validation", "query"),
    log:
        "logs/report.log",
    benchmark:
        "benchmarks/report.tsv"
    threads: 1
    resources:
        mem_mb=4000,
    shell:
        "{LOWLAND} stage report --config {params.config:q} 2>&1 | tee {log:q}"
