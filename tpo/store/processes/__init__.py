"""Child processes that execute steps or share one's work, and how they end.

A process that has used vLLM or trained a model gives the device's memory back for certain only when it ends. So a step
can run in a child process, several processes can train together, and the steps that sample or judge with vLLM, or
judge with a model on a GPU, share one child, which keeps the engine from step to step and ends before a step that needs
the device itself.

    launch.py      one step in a child process, or in several started by `accelerate launch`
    kept.py        what a process keeps from step to step
    vllm.py        vLLM inside a process
    in_flight.py   requests under way in it, added and finished one by one
    streams.py     tasks to workers that pull them, results back; both ends
    workers.py     copies of a model, each in a spawned process with its own share of the GPUs
    forks.py       processes with one thread each that share a model's memory: plain torch on a CPU
    order.py       results in the order of their tasks
    cores.py       how many cores there are for this process, and so how many forked workers

When the parent is killed, workers and the child with vLLM see their connection closed and end, and the ranks of a
training end with their launcher. A child with a single step inherits the artifact's lock and finishes the step; whoever
wants the artifact waits for it.
"""
