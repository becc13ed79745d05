"""Minutes of video as images, written on other engines as their documentation has it.

Each module is a program that runs in the environment of its engine, without wtours:
`python -m benchmarks.peers.ray_data ADDRESS FOLDER FAULT`.
"""
