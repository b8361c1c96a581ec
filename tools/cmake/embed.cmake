# cmake -D OUT=x.h -D FILES=name=path,name=path -P embed.cmake
#
# Writes a C header with each file (of ASCII) as `static const char name[]`, NUL-terminated.
cmake_minimum_required(VERSION 3.25)
set(text "/* Made by tools/cmake/embed.cmake. */\n")
string(REPLACE "," ";" pairs "${FILES}")
foreach(pair ${pairs})
  string(REGEX MATCH "^([^=]+)=(.+)$" _ "${pair}")
  set(name ${CMAKE_MATCH_1})
  file(READ ${CMAKE_MATCH_2} bytes HEX)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
  string(REPEAT "0x..," 20 line)
  string(REGEX REPLACE "(${line})" "\\1\n" bytes "${bytes}")
  string(APPEND text "static const char ${name}[] = {\n${bytes}0};\n")
endforeach()
file(WRITE ${OUT} "${text}")
