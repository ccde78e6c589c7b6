"""Eight simulated devices for the tests of meshes; all others use the first alone.

Programs are not kept but where a test says where: `compile_once`.
"""

import os

import jax

os.environ["JAXMODELS_PROGRAMS"] = "off"
jax.config.update("jax_num_cpu_devices", 8)  # before anything touches a device
