# Further checkpoints, for estimators that want more than one: epochs of the training (TracIn), models of other seeds (TRAK).
rule trajectory:
    input:
        trained="results/checkpoints/trained.json",
    output:
        manifests=[f"results/checkpoints/epoch-{epoch}.json" for epoch in CONFIG.checkpoints.epochs or [0]],
    log:
        "logs/trajectory.log",
    benchmark:
        "benchmarks/trajectory.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=memory("trajectory"),
        runtime=minutes("trajectory"),
    params:
        config=sections("trajectory"),
        code=code("trajectory"),
    shell:
        "lowland stage trajectory {TASK} --config {params.config:q} 2>&1 | tee {log:q}"


rule member:
    input:
        trained="results/checkpoints/trained.json",
    output:
        manifest="results/checkpoints/seed-{number}.json",
    log:
        "logs/member/{number}.log",
    benchmark:
        "benchmarks/member/{number}.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=memory("member"),
        runtime=minutes("member"),
    params:
        config=sections("member"),
        code=code("member"),
    shell:
        "lowland stage member --checkpoint seed-{wildcards.number} {TASK} --config {params.config:q}"
        " 2>&1 | tee {log:q}"
