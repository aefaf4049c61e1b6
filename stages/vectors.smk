# Validation and query gradients, preconditioned: one vector a row, for all later questions.
def curvature_at(wildcards):
    """The curvature that belongs to a checkpoint: of the train rows at trained, of the validation rows at flat."""
    split = settings.CURVATURE_SPLIT[wildcards.checkpoint]
    return f"results/curvature/{wildcards.checkpoint}-{split}.json"


def asked(wildcards):
    """Gradients of the rows that may be asked about."""
    return shards_of("gradients", wildcards.checkpoint, "validation") + shards_of(
        "gradients", wildcards.checkpoint, "query"
    )


rule vectors:
    input:
        gradients=asked,
        curvature=curvature_at,
    output:
        manifest="results/vectors/{checkpoint}.json",
    params:
        config=sections("vectors"),
        code=code("vectors"),
    log:
        "logs/vectors/{checkpoint}.log",
    benchmark:
        "benchmarks/vectors/{checkpoint}.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=4000,
    shell:
        "{LOWLAND} stage vectors --checkpoint {wildcards.checkpoint} --config {params.config:q} 2>&1 | tee {log:q}"
