# What the binary says of itself, installed: man pages and completion scripts. Runs at install time:
#   cmake -D BATON=path/to/baton -D OUT=folder -P baton_texts.cmake
# writes OUT/man1/*.1 and OUT/completions/{baton,_baton,baton.fish}.
function(baton_text file)
  execute_process(COMMAND ${BATON} ${ARGN} OUTPUT_VARIABLE text RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "${BATON} ${ARGN}: exit status ${status}, expected 0")
  endif()
  file(WRITE ${OUT}/${file} "${text}")
endfunction()

baton_text(man1/baton.1 man)
foreach(command serve proxy top replay random-checkpoint)
  baton_text(man1/baton-${command}.1 man ${command})
endforeach()
baton_text(completions/baton completion bash)
baton_text(completions/_baton completion zsh)
baton_text(completions/baton.fish completion fish)
