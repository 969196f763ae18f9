# SPDX-License-Identifier: Apache-2.0
#
# CUDA is optional (NIBBLE_CUDA; make cuda). A room's files that need it lie in src/ROOM/gpu/: C files that call
# the runtime, and .cu files whose folder names the generation they are built for:
#   gpu/any/   one source for all generations        gpu/sm90/   Hopper (sm_90a)
#   gpu/sm89/  Ada and what has its instructions      gpu/sm120/  Blackwell GeForce (sm_120)
# Files of src/ROOM/nogpu/ stand in for gpu/ in a build without CUDA.
option(NIBBLE_CUDA "build the CUDA rooms (needs nvcc)" OFF)
set(NIBBLE_CUDA_ARCHS "80;89;90;100;120" CACHE STRING "generations that gpu/any is built for")
set(NIBBLE_CUDA_FLAGS "" CACHE STRING "more flags for nvcc")

if(NIBBLE_CUDA)
    execute_process(COMMAND ${PROJECT_SOURCE_DIR}/scripts/find-nvcc OUTPUT_VARIABLE NIBBLE_NVCC
                    OUTPUT_STRIP_TRAILING_WHITESPACE)
    if(NOT NIBBLE_NVCC)
        message(FATAL_ERROR "NIBBLE_CUDA is on and there is no nvcc of CUDA 12.8 or later: run scripts/setup cuda")
    endif()
    set(CMAKE_CUDA_COMPILER ${NIBBLE_NVCC})
    set(CMAKE_CUDA_ARCHITECTURES OFF) # each file has its own -gencode
    enable_language(CUDA)
    find_package(CUDAToolkit REQUIRED)
    set(CMAKE_CUDA_STANDARD 17)
endif()

set(NIBBLE_GENCODE_sm80 -gencode=arch=compute_80,code=sm_80)
set(NIBBLE_GENCODE_sm89 -gencode=arch=compute_89,code=sm_89)
set(NIBBLE_GENCODE_sm90 -gencode=arch=compute_90a,code=sm_90a)
if(NIBBLE_CUDA AND CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.9) # no families yet: without 10.3 and 12.1
    set(NIBBLE_GENCODE_sm100 -gencode=arch=compute_100a,code=sm_100a)
    set(NIBBLE_GENCODE_sm120 -gencode=arch=compute_120a,code=sm_120a)
else()
    set(NIBBLE_GENCODE_sm100 -gencode=arch=compute_100f,code=sm_100f) # 10.0 and 10.3
    set(NIBBLE_GENCODE_sm120 -gencode=arch=compute_120f,code=sm_120f) # 12.0 and 12.1
endif()

# The .cu files of ROOM as library room_ROOM_cu, linked to room_ROOM.
function(nibble_cuda_room room)
    file(GLOB_RECURSE kernels CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/${room}/gpu/*.cu)
    if(NOT NIBBLE_CUDA OR NOT kernels)
        return()
    endif()
    set(any "")
    foreach(arch ${NIBBLE_CUDA_ARCHS})
        list(APPEND any ${NIBBLE_GENCODE_sm${arch}})
    endforeach()
    foreach(source ${kernels})
        get_filename_component(folder ${source} DIRECTORY)
        get_filename_component(folder ${folder} NAME)
        set(flags ${any})
        if(folder STREQUAL "sm89") # and emulated on Hopper, where it is tested
            set(flags ${NIBBLE_GENCODE_sm89} ${NIBBLE_GENCODE_sm90} ${NIBBLE_GENCODE_sm120})
        elseif(folder STREQUAL "sm120") # likewise
            set(flags ${NIBBLE_GENCODE_sm90} ${NIBBLE_GENCODE_sm120})
        elseif(NOT folder STREQUAL "any")
            set(flags ${NIBBLE_GENCODE_${folder}})
        endif()
        set_source_files_properties(${source} PROPERTIES LANGUAGE CUDA COMPILE_OPTIONS "${flags}")
    endforeach()
    add_library(room_${room}_cu STATIC ${kernels})
    target_include_directories(room_${room}_cu PRIVATE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
    target_compile_options(room_${room}_cu PRIVATE -O3 -lineinfo -Xcompiler=-fvisibility=hidden,-fno-exceptions
                           ${NIBBLE_CUDA_FLAGS})
    if(room STREQUAL "gemm") # its quantizers are bit-exact; its kernels write their FMAs out
        target_compile_options(room_${room}_cu PRIVATE -fmad=false)
    endif()
    target_link_libraries(room_${room}_cu PUBLIC CUDA::cudart_static)
    target_link_libraries(room_${room} PUBLIC room_${room}_cu CUDA::cudart_static)
    set_target_properties(room_${room} room_${room}_cu PROPERTIES LINKER_LANGUAGE C)
endfunction()

# libnibble_cuda.so, which the engine loads where there is a driver; it exports its backend_plugin alone.
function(nibble_cuda_plugin)
    file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/nibble_cuda.c CONTENT "/* the rooms are all of it */\n")
    add_library(nibble_cuda MODULE ${PROJECT_BINARY_DIR}/nibble_cuda.c)
    set_target_properties(nibble_cuda PROPERTIES LINKER_LANGUAGE C LINK_DEPENDS ${PROJECT_SOURCE_DIR}/src/cuda/plugin.map)
    target_link_options(nibble_cuda PRIVATE -Wl,-u,nibble_plugin
                        -Wl,--version-script=${PROJECT_SOURCE_DIR}/src/cuda/plugin.map)
    target_link_libraries(nibble_cuda PRIVATE room_cuda)
endfunction()

# Tests that need a GPU, tests/gpu/gpu_*, one program each: scripts/gpu-check builds and runs them. Those in C
# are of the engine's backend, and so are the programs of bench/gpu.
function(nibble_gpu_tests)
    add_custom_target(gpu_tests)
    file(GLOB tests CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/gpu/gpu_*.cu ${PROJECT_SOURCE_DIR}/tests/gpu/gpu_*.c
         ${PROJECT_SOURCE_DIR}/bench/gpu/bench_gpu_*.c)
    foreach(source ${tests})
        get_filename_component(name ${source} NAME_WE)
        add_executable(${name} EXCLUDE_FROM_ALL ${source})
        target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
        if(source MATCHES "\\.cu$")
            string(REGEX REPLACE "^gpu_" "" stem ${name}) # gpu_gemm.cu has its parts in gemm_*.cu
            file(GLOB parts CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/gpu/${stem}_*.cu)
            target_sources(${name} PRIVATE ${parts})
            set_source_files_properties(${source} ${parts} PROPERTIES
                                        COMPILE_OPTIONS "${NIBBLE_GENCODE_sm80};${NIBBLE_GENCODE_sm90}")
            target_link_libraries(${name} PRIVATE room_gemm room_quant CUDA::cudart_static)
        elseif(name STREQUAL "gpu_engine") # a program like any other: the library, and the plugin beside it
            target_link_libraries(${name} PRIVATE libnibble CUDA::cudart_static m)
            add_dependencies(${name} nibble_cuda)
        else()
            target_compile_definitions(${name} PRIVATE TESTS_DIR="tests")
            target_link_libraries(${name} PRIVATE op_cases room_model room_cpu room_cuda CUDA::cudart_static m)
        endif()
        add_dependencies(gpu_tests ${name})
    endforeach()
endfunction()
