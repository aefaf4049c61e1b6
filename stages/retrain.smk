# Models trained again on changed rows, and what is judged by them. No part of a run: `lowland evaluate` asks for it.
rule retrain:
    input:
        told_by=retrained_from,
        rows="results/prepare/rows.json",
    output:
        manifest="results/retrain/{set}/blocks/{block}.json",
    log:
        "logs/retrain/{set}/{block}.log",
    benchmark:
        "benchmarks/retrain/{set}/{block}.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=memory("retrain"),
        runtime=minutes("retrain"),
    params:
        config=sections("retrain"),
        code=code("retrain"),
        retired=retired(),
        content=content("train", "validation", "query"),
        truth=truth_for,
    shell:
        "lowland stage retrain --set {wildcards.set} --block {wildcards.block}"
        " {TASK} --config {params.config:q} 2>&1 | tee {log:q}"


rule lds:
    input:
        members=lambda wildcards: retrained(wildcards.set),
        gradients=gradients_paired(),
        ensemble=ensemble_losses(),
        solved=solved_pairs(),
        at_flat="results/curvature/flat-validation.json",
        at_trained="results/curvature/trained-train.json",
    output:
        manifest="results/evaluation/lds-{set}.json",
    log:
        "logs/lds-{set}.log",
    benchmark:
        "benchmarks/lds-{set}.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=memory("lds"),
        runtime=minutes("lds"),
    params:
        config=sections("lds"),
        code=code("lds"),
        retired=retired(),
    shell:
        "lowland stage lds --set {wildcards.set} {TASK} --config {params.config:q} {SCAN} 2>&1 | tee {log:q}"


rule memorisation:
    input:
        members=retrained("most"),
        scores="results/scores/scores.json",
    output:
        manifest="results/evaluation/memorisation.json",
    log:
        "logs/memorisation.log",
    benchmark:
        "benchmarks/memorisation.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=memory("memorisation"),
        runtime=minutes("memorisation"),
    params:
        config=sections("memorisation"),
        code=code("memorisation"),
        truth=PLAN.truth,
    shell:
        "lowland stage memorisation {TASK} --config {params.config:q} 2>&1 | tee {log:q}"


rule retraining:
    input:
        members=lambda wildcards: retrained(wildcards.set),
    output:
        manifest="results/evaluation/retraining-{set}.json",
    log:
        "logs/retraining-{set}.log",
    benchmark:
        "benchmarks/retraining-{set}.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=memory("retraining"),
        runtime=minutes("retraining"),
    params:
        config=sections("retraining"),
        code=code("retraining"),
    shell:
        "lowland stage retraining --set {wildcards.set} {TASK} --config {params.config:q} 2>&1 | tee {log:q}"


# The last epochs of a joint training again, without a row or without the worst ones.
rule replay:
    input:
        recorded="results/recorded/steps.json",
        scores="results/scores/scores.json",
    output:
        manifest="results/evaluation/replay.json",
    log:
        "logs/replay.log",
    benchmark:
        "benchmarks/replay.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=memory("replay"),
        runtime=minutes("replay"),
    params:
        config=sections("replay"),
        code=code("replay"),
        content=content("validation", "query"),
    shell:
        "lowland stage replay {TASK} --config {params.config:q} 2>&1 | tee {log:q}"
