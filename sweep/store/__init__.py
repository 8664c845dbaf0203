"""A study's folder, which holds everything that is known of the study.

    plan.json                             the resolved plan
    plans/<hash>.json                     plans that an edited grid has replaced; never read
    trials/<trial_id>.<attempt>.parquet   one row: the result of an attempt
    epochs/<trial_id>.<attempt>.parquet   its learning curve
    measurements/<measure_id>.parquet     one row: a training step benchmarked alone, for all trials that share it
    compacted/, manifest.json             the rows of many parts in one file
    checkpoints/<trial_id>/               checkpoint and progress of an unfinished trial
    rungs/<group>/<epoch>/                values that trials had reached at a rung
    quarantine/                           damaged files
    logs/<trial_id>.<attempt>.txt         traceback of a failure; folded.txt holds many of them
    run.log                               what the driver and its workers have logged
    optuna.log                            copy of a search for optuna-dashboard, never read
    report/                               tables and figures, which can be written again from the rest
    driver.lock                           held by the process that runs the study

A part is a Parquet file with the rows of one attempt or measurement. Results are stored in parts alone. Each part is
written by one process, so damage to it costs no other row; a checksum inside every file reveals the damage.
Other names that begin with a dot, such as `.DS_Store` or `._x.parquet`, are not the study's and are passed over.
"""
