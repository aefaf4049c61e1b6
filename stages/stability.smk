# Agreement of answers under other dampings. No part of a run: `lowland evaluate --stability` asks for it.
rule stability:
    input:
        gradients=[shard for at in settings.CHECKPOINTS for shard in shards_of("gradients", at, "train")],
        curvature=[f"results/curvature/{at}-{split}.json" for at, split in settings.CURVATURE_SPLIT.items()],
        vectors=vectors_asked("query", settings.CHECKPOINTS),
    output:
        manifest="results/evaluation/stability.json",
    log:
        "logs/stability.log",
    benchmark:
        "benchmarks/stability.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=memory("stability"),
        runtime=minutes("stability"),
    params:
        config=sections("stability"),
        code=code("stability"),
        retired=retired(),
    shell:
        "lowland stage stability --config {params.config:q} {SCAN} 2>&1 | tee {log:q}"
