"""Eight simulated devices for the tests of meshes; all others use the first alone."""

import jax

jax.config.update("jax_num_cpu_devices", 8)  # before anything touches a device
