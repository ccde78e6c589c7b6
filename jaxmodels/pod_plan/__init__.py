"""What a task's training step needs and costs on a TPU slice, told without one.

    python scripts/pod_plan.py wikitext-gpt2 --size gpt2-xl --topology v5e:16x16 --mesh fsdp=256

`topology` finds the slice, `program` compiles the step for it, `hlo` and `traffic` read what came
out, `roofline` turns that into a time, `search` tries meshes, `report` tells of it.
"""
