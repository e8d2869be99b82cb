"""tmp"""

import argparse
from benchmarks import cascade_generate as g

p = argparse.ArgumentParser()
g.add_arguments(p)
g.run(p.parse_args())
