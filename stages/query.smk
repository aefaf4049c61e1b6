# The most helpful and most harmful train rows of every declared query row.
from pipeline.storage.layout import METRIC_OF

ASKED = [settings.parse_score(score) for score in CONFIG.query.scores]


rule query:
    input:
        gradients=[
            shard
            for checkpoint in sorted({checkpoint for _, checkpoint in ASKED})
            for shard in shards_of("gradients", checkpoint, "train")
        ],
        vectors=sorted({f"results/vectors/{checkpoint}.json" for _, checkpoint in ASKED}),
        indexes=sorted({f"results/index/{checkpoint}-{METRIC_OF[score]}.json" for score, checkpoint in ASKED}),
    output:
        manifest="results/query/topk.json",
    log:
        "logs/query.log",
    benchmark:
        "benchmarks/query.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=4000,
    params:
        config=sections("query"),
        code=code("query"),
        content=content("query"),
    shell:
        "lowland stage query --config {params.config:q} 2>&1 | tee {log:q}"
