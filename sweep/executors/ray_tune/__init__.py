"""The executor that runs jobs as Ray Tune trials, and the child process that hosts Ray."""
