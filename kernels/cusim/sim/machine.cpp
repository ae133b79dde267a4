#include "machine.h"

namespace cusim {

Options options;
Launch launch;
Fibre fibres[MAX_THREADS];
Fibre* current;
uint3 current_block;
uint32_t block_in_grid;
uint64_t block_number;
const void* access_site;

}  // namespace cusim
