# FAISS indexes of the train codes; the preconditioned validation vectors measure their recall.
rule index:
    input:
        gradients=lambda wildcards: shards_of("gradients", wildcards.checkpoint, "train"),
        vectors="results/vectors/{checkpoint}-validation.json",
    output:
        manifest="results/index/{checkpoint}-{metric}.json",
    log:
        "logs/index/{checkpoint}-{metric}.log",
    benchmark:
        "benchmarks/index/{checkpoint}-{metric}.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=memory("index"),
        runtime=minutes("index"),
    params:
        config=sections("index"),
        code=code("index"),
    shell:
        "lowland stage index --checkpoint {wildcards.checkpoint} --metric {wildcards.metric}"
        " --config {params.config:q} {SCAN} 2>&1 | tee {log:q}"
