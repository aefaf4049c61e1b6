# The most helpful and most harmful train rows of every declared query row.
rule query:
    input:
        gradients=[shard for checkpoint in checkpoints_asked() for shard in shards_of("gradients", checkpoint, "train")],
        vectors=vectors_asked("query"),
        indexes=indexes_asked(),
    output:
        manifest="results/query/topk.json",
    log:
        "logs/query.log",
    benchmark:
        "benchmarks/query.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=memory("query"),
        runtime=minutes("query"),
    params:
        config=sections("query"),
        code=code("query"),
        retired=retired(),
        content=content("query"),
    shell:
        "lowland stage query --config {params.config:q} {SCAN} 2>&1 | tee {log:q}"
