# qalof_find_torch(): libtorch as the interface target qalof_torch.
#
# Looked for in CMAKE_PREFIX_PATH and QALOF_DEPS, then in the project's virtual environment, then in the user's Python.

function(qalof_find_torch)
  if(TARGET qalof_torch)
    return()
  endif()
  set(hint "; configure with -DQALOF_TRAIN=OFF for the inference tool alone, or run scripts/setup")
  find_package(Torch QUIET CONFIG)
  foreach(python ${PROJECT_SOURCE_DIR}/.venv/bin/python python3)
    if(Torch_FOUND)
      break()
    endif()
    execute_process(COMMAND ${python} -c "import torch; print(torch.utils.cmake_prefix_path)"
                    OUTPUT_VARIABLE prefix OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
    if(NOT failed)
      list(APPEND CMAKE_PREFIX_PATH ${prefix})
      find_package(Torch QUIET CONFIG)
    endif()
  endforeach()
  if(NOT Torch_FOUND)
    message(FATAL_ERROR "libtorch was not found in CMAKE_PREFIX_PATH, .venv or python3${hint}")
  endif()
  if(Torch_VERSION VERSION_LESS 2.7)
    message(FATAL_ERROR "libtorch ${Torch_VERSION} was found, at least 2.7 is needed${hint}")
  endif()
  if(TORCH_CXX_FLAGS MATCHES "_GLIBCXX_USE_CXX11_ABI=0")
    message(FATAL_ERROR "libtorch in ${TORCH_INSTALL_PREFIX} uses the old C++ ABI, the C++11 ABI is needed${hint}")
  endif()
  message(STATUS "libtorch ${Torch_VERSION} in ${TORCH_INSTALL_PREFIX}")
  add_library(qalof_torch INTERFACE)
  target_include_directories(qalof_torch SYSTEM INTERFACE ${TORCH_INCLUDE_DIRS})
  # libstdc++ first: libtorch.so of CUDA wheels exports a std::filesystem of its own whose remove_all calls a null pointer.
  target_link_libraries(qalof_torch INTERFACE "-Wl,--push-state,--no-as-needed,-lstdc++,--pop-state" ${TORCH_LIBRARIES})
  set_target_properties(qalof_torch PROPERTIES QALOF_LIBRARY_DIR ${TORCH_INSTALL_PREFIX}/lib)
  # The program runs in place: it finds libtorch where it was found now.
  target_link_options(qalof_torch INTERFACE "-Wl,-rpath,${TORCH_INSTALL_PREFIX}/lib")
endfunction()

# qalof_probe_gloo(RESULT): whether programs can exchange tensors by PyTorch's c10d over Gloo.
# PyTorch's library holds it, its headers need those of Gloo (Debian: libgloo-dev), whose version
# may be another: only a run tells.
function(qalof_probe_gloo result)
  if(NOT QALOF_HAS_GLOO)
    find_path(gloo_include gloo/algorithm.h)
    set(works OFF)
    if(NOT gloo_include)
      message(STATUS "Gloo: headers were not found (libgloo-dev), training runs in one process")
    else()
      get_target_property(include_dirs qalof_torch INTERFACE_INCLUDE_DIRECTORIES)
      # Not the imported targets: they name others that a probe's project does not know.
      get_target_property(lib qalof_torch QALOF_LIBRARY_DIR)
      try_run(status compiled ${CMAKE_BINARY_DIR}/gloo_probe
        ${PROJECT_SOURCE_DIR}/cmake/probes/gloo.cpp
        CMAKE_FLAGS "-DINCLUDE_DIRECTORIES=${include_dirs};${gloo_include}"
        COMPILE_DEFINITIONS -DUSE_DISTRIBUTED -DUSE_C10D_GLOO
        LINK_LIBRARIES ${lib}/libtorch.so ${lib}/libtorch_cpu.so ${lib}/libc10.so -Wl,-rpath,${lib}
        CXX_STANDARD 20
        COMPILE_OUTPUT_VARIABLE log)
      if(compiled AND status EQUAL 0)
        set(works ON)
        message(STATUS "Gloo: works, training runs in several processes too")
      elseif(compiled)
        message(STATUS "Gloo: its probe failed (${status}), training runs in one process")
      else()
        file(WRITE ${CMAKE_BINARY_DIR}/gloo_probe.log "${log}")
        message(STATUS "Gloo: its probe does not compile (gloo_probe.log), training runs in one "
                       "process")
      endif()
    endif()
    # A probe that failed is run again: what it lacked may be there then.
    set(QALOF_HAS_GLOO ${works} CACHE BOOL "Training in several processes, as a probe found" FORCE)
  endif()
  set(${result} ${QALOF_HAS_GLOO} PARENT_SCOPE)
endfunction()

# qalof_probe_nccl(RESULT): whether gradients can be summed between GPUs by PyTorch's c10d over NCCL.
# PyTorch's CUDA libraries hold it; its headers need NCCL's own (wheel nvidia-nccl-cu*, Debian:
# libnccl-dev) and CUDA's.
function(qalof_probe_nccl result)
  if(NOT QALOF_HAS_NCCL)
    set(works OFF)
    get_target_property(lib qalof_torch QALOF_LIBRARY_DIR)
    file(GLOB wheels ${lib}/../../nvidia/nccl/include ${lib}/../../nvidia/*/include)
    find_path(QALOF_NCCL_INCLUDE nccl.h HINTS ${wheels})
    find_path(QALOF_CUDA_INCLUDE cuda_runtime_api.h HINTS ${wheels} /usr/local/cuda/include)
    if(NOT EXISTS ${lib}/libtorch_cuda.so)
      message(STATUS "NCCL: this PyTorch is built without CUDA, gradients travel through the host's memory")
    elseif(NOT QALOF_NCCL_INCLUDE OR NOT QALOF_CUDA_INCLUDE)
      message(STATUS "NCCL: headers were not found (nccl.h: ${QALOF_NCCL_INCLUDE}, cuda_runtime_api.h: "
                     "${QALOF_CUDA_INCLUDE}), gradients travel through the host's memory")
    else()
      get_target_property(include_dirs qalof_torch INTERFACE_INCLUDE_DIRECTORIES)
      try_compile(compiled ${CMAKE_BINARY_DIR}/nccl_probe
        ${PROJECT_SOURCE_DIR}/cmake/probes/nccl.cpp
        CMAKE_FLAGS "-DINCLUDE_DIRECTORIES=${include_dirs};${QALOF_NCCL_INCLUDE};${QALOF_CUDA_INCLUDE}"
        COMPILE_DEFINITIONS -DUSE_DISTRIBUTED -DUSE_C10D_NCCL
        LINK_LIBRARIES ${lib}/libtorch.so ${lib}/libtorch_cpu.so ${lib}/libtorch_cuda.so
                       ${lib}/libc10.so ${lib}/libc10_cuda.so -Wl,--allow-shlib-undefined
        CXX_STANDARD 20
        OUTPUT_VARIABLE log)
      if(compiled)
        set(works ON)
        message(STATUS "NCCL: found, gradients are summed between GPUs (${QALOF_NCCL_INCLUDE})")
      else()
        file(WRITE ${CMAKE_BINARY_DIR}/nccl_probe.log "${log}")
        message(STATUS "NCCL: its probe does not compile (nccl_probe.log), gradients travel through "
                       "the host's memory")
      endif()
    endif()
    set(QALOF_HAS_NCCL ${works} CACHE BOOL "Sums of gradients between GPUs, as a probe found" FORCE)
  endif()
  set(${result} ${QALOF_HAS_NCCL} PARENT_SCOPE)
endfunction()
