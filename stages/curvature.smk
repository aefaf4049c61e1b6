# The curvature of a split at a checkpoint and its spectrum. Another damping starts here.
def roots(wildcards):
    """What the curvature is summed from: gradients, and for the GGN the gradients under every label."""
    made = shards_of("gradients", wildcards.checkpoint, wildcards.split)
    if CONFIG.curvature.kind == "ggn":
        made += shards_of("candidates", wildcards.checkpoint, wildcards.split)
    return made


rule curvature:
    input:
        roots=roots,
        projection="results/projection/{checkpoint}.json",
    output:
        manifest="results/curvature/{checkpoint}-{split}.json",
    params:
        config=sections("curvature"),
        code=code("curvature"),
    log:
        "logs/curvature/{checkpoint}-{split}.log",
    benchmark:
        "benchmarks/curvature/{checkpoint}-{split}.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=4000,
    shell:
        "{LOWLAND} stage curvature --checkpoint {wildcards.checkpoint} --split {wildcards.split}"
        " --config {params.config:q} 2>&1 | tee {log:q}"
