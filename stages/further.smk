# Further checkpoints, for estimators that want more than one: epochs of the training (TracIn), the same of its twin from
# another seed (f-INE), models of other seeds (TRAK).
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


rule twin:
    input:
        trained="results/checkpoints/trained.json",
    output:
        manifests=[f"results/checkpoints/twin-{epoch}.json" for epoch in CONFIG.checkpoints.epochs or [0]],
    log:
        "logs/twin.log",
    benchmark:
        "benchmarks/twin.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=memory("twin"),
        runtime=minutes("twin"),
    params:
        config=sections("twin"),
        code=code("twin"),
    shell:
        "lowland stage twin {TASK} --config {params.config:q} 2>&1 | tee {log:q}"


# A flat minimum reached from the twin: which suspects are such under another seed.
rule twin_flat:
    input:
        flat="results/checkpoints/flat.json",
        twin=[f"results/checkpoints/twin-{epoch}.json" for epoch in CONFIG.checkpoints.epochs[-1:] or [0]],
    output:
        manifest="results/checkpoints/twin-flat.json",
    log:
        "logs/twin_flat.log",
    benchmark:
        "benchmarks/twin_flat.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=memory("twin_flat"),
        runtime=minutes("twin_flat"),
    params:
        config=sections("twin_flat"),
        code=code("twin_flat"),
        content=content("validation"),
    shell:
        "lowland stage twin_flat {TASK} --config {params.config:q} 2>&1 | tee {log:q}"


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


# Models for GEX: each fine-tuned from the one before.
rule ensemble:
    input:
        trained="results/checkpoints/trained.json",
    output:
        manifests=[f"results/checkpoints/{name}.json" for name in CONFIG.ensemble.names or ["geometric-0"]],
    log:
        "logs/ensemble.log",
    benchmark:
        "benchmarks/ensemble.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=memory("ensemble"),
        runtime=minutes("ensemble"),
    params:
        config=sections("ensemble"),
        code=code("ensemble"),
        content=content("validation"),
    shell:
        "lowland stage ensemble {TASK} --config {params.config:q} 2>&1 | tee {log:q}"


rule losses:
    input:
        members=[f"results/checkpoints/{name}.json" for name in CONFIG.ensemble.names],
    output:
        manifest="results/losses/ensemble.json",
    log:
        "logs/losses.log",
    benchmark:
        "benchmarks/losses.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=memory("losses"),
        runtime=minutes("losses"),
    params:
        config=sections("losses"),
        code=code("losses"),
        content=content("train", "validation", "query"),
    shell:
        "lowland stage losses {TASK} --config {params.config:q} 2>&1 | tee {log:q}"


# Scores of whole gradients, by a solver that needs the model.
rule solve:
    input:
        checkpoint=lambda wildcards: f"results/checkpoints/{METHODS[wildcards.method].at[0]}.json",
        gradients=lambda wildcards: [
            shard
            for split in solved_from(wildcards.method)
            for shard in shards_of("gradients", METHODS[wildcards.method].at[0], split)
        ],
    output:
        manifest="results/solved/{method}.json",
    log:
        "logs/solve/{method}.log",
    benchmark:
        "benchmarks/solve/{method}.tsv"
    wildcard_constraints:
        method="|".join(name for name in SOLVED if name not in TRACED),
    threads: CONFIG.compute.threads
    resources:
        mem_mb=memory("solve"),
        runtime=minutes("solve"),
    params:
        config=sections("solve"),
        code=code("solve"),
        retired=retired(),
        content=lambda wildcards: content(*solved_from(wildcards.method)),
    shell:
        "lowland stage solve --method {wildcards.method} {TASK} --config {params.config:q} 2>&1 | tee {log:q}"


# The steps of the joint training of a generator and a discriminator, and influence through them.
rule record:
    input:
        trained="results/checkpoints/trained.json",
    output:
        manifest="results/recorded/steps.json",
    log:
        "logs/record.log",
    benchmark:
        "benchmarks/record.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=memory("record"),
        runtime=minutes("record"),
    params:
        config=sections("record"),
        code=code("record"),
    shell:
        "lowland stage record {TASK} --config {params.config:q} 2>&1 | tee {log:q}"


rule trace:
    input:
        recorded="results/recorded/steps.json",
    output:
        manifest="results/solved/{method}.json",
    log:
        "logs/trace/{method}.log",
    benchmark:
        "benchmarks/trace/{method}.tsv"
    wildcard_constraints:
        method="|".join(TRACED),
    threads: CONFIG.compute.threads
    resources:
        mem_mb=memory("trace"),
        runtime=minutes("trace"),
    params:
        config=sections("trace"),
        code=code("trace"),
        retired=retired(),
        content=content("train", "validation"),
    shell:
        "lowland stage trace --method {wildcards.method} {TASK} --config {params.config:q} 2>&1 | tee {log:q}"
