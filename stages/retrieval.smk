# Retrieval against the groups that a task knows: the only stage that reads them.
rule retrieval:
    input:
        gradients=gradients_of_all_pairs(),
        ensemble=ensemble_losses(),
        solved=solved_pairs(),
        at_flat="results/curvature/flat-validation.json",
        at_trained="results/curvature/trained-train.json",
    output:
        retrieval="results/evaluation/retrieval.json",
    log:
        "logs/retrieval.log",
    benchmark:
        "benchmarks/retrieval.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=memory("retrieval"),
        runtime=minutes("retrieval"),
    params:
        config=sections("retrieval"),
        code=code("retrieval"),
        retired=retired(),
        groups=f"groups {PLAN.groups}",
    shell:
        "lowland stage retrieval {TASK} --config {params.config:q} 2>&1 | tee {log:q}"
