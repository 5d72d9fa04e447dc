"""Child processes that execute steps, and how they end.

A process that has used vLLM or trained a model gives the device's memory back for certain only when it ends. So a step
can run in a child process, several processes can train together, and the steps that sample or judge with vLLM
share one child, which keeps the engine from step to step and ends before a step that needs the device itself.

    launch.py      one step in a child process, or in several started by `accelerate launch`
    vllm.py        vLLM inside a process, kept from step to step
    in_flight.py   requests under way in it, added and finished one by one
    workers.py     copies of a model, each in a process with its own share of the GPUs

When the parent is killed, workers and the child with vLLM see their socket closed and end, and the ranks of a training
end with their launcher. A child with a single step inherits the artifact's lock and finishes the step; whoever wants
the artifact waits for it.
"""
