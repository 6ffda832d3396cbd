"""GLSL of the renderer. Positions are in the camera frame [m], colours are linear until ``encode``."""

from __future__ import annotations

_PROJECT = """
uniform vec4 pinhole;   // fx, fy, cx + 0.5, cy + 0.5 of the part of the image that is drawn [px]
uniform vec2 size;      // of that part [px]
uniform vec2 range;     // near, far [m]
uniform vec4 lens;      // k1 k2 p1 p2 of plumb_bob
uniform float reach;    // squared radius of the rays up to which the lens follows them; constant beyond

// The one place where OpenCV's axes meet OpenGL's: image row 0 goes to the bottom of OpenGL's
// window, which is the first row that is read back, so nothing is flipped afterwards.
vec4 project(vec3 p) {
    if (lens != vec4(0.0) && p.z > 0.0) {
        vec2 q = p.xy / p.z;
        float r2 = dot(q, q), s = min(r2, reach);
        vec2 inside = q * sqrt(s / max(r2, 1e-12));
        vec2 aside = 2.0 * lens.zw * inside.x * inside.y + lens.wz * (s + 2.0 * inside * inside);
        p.xy = p.z * (q * (1.0 + s * (lens.x + s * lens.y)) + aside);
    }
    vec2 ndc = 2.0 * (pinhole.xy * p.xy + pinhole.zw * p.z) / size - p.z;
    float a = (range.y + range.x) / (range.y - range.x);
    return vec4(ndc, a * p.z - 2.0 * range.x * range.y / (range.y - range.x), p.z);
}
"""

SURFACE_VERTEX = (
    "#version 330\n"
    + _PROJECT
    + """
in vec3 in_position;
in vec3 in_normal;
in vec2 in_light;
in vec3 in_colour;
in vec2 in_uv;
in vec3 in_nail;
in vec2 in_kind;
out vec3 position;
out vec3 normal;
out vec3 colour;
out vec2 uv;
out vec3 nail;
out vec2 kind;
out vec2 light;

void main() {
    position = in_position;
    normal = in_normal;
    colour = in_colour;
    uv = in_uv;
    nail = in_nail;
    kind = in_kind;
    light = in_light;
    gl_Position = project(in_position);
}
"""
)

SURFACE_FRAGMENT = """#version 330
uniform vec3 key_direction;
uniform vec3 key_colour;
uniform vec3 sky_colour;
uniform vec3 ground_colour;
uniform vec3 up;
uniform sampler2D front_texture;
uniform sampler2D back_texture;
uniform float relief;    // height of the textures' alpha range [m]
uniform bool textured;
in vec3 position;
in vec3 normal;
in vec3 colour;
in vec2 uv;
in vec3 nail;
in vec2 kind;
in vec2 light;
out vec4 result;

vec3 bumped(vec3 n, float height) {
    // Mikkelsen, "Bump Mapping Unparametrized Surfaces on the GPU" (2010).
    vec3 sx = dFdx(position), sy = dFdy(position);
    vec3 rx = cross(sy, n), ry = cross(n, sx);
    float det = dot(sx, rx);
    vec3 gradient = sign(det) * (dFdx(height) * rx + dFdy(height) * ry);
    return normalize(abs(det) * n - gradient);
}

// sRGB's curve within 0.3 %, from square roots: powers are dear on a CPU.
vec3 encode(vec3 c) {
    c = clamp(c, 0.0, 1.0);
    vec3 a = sqrt(c), b = sqrt(a), d = sqrt(b);
    return 0.662002687 * a + 0.684122060 * b - 0.323583601 * d - 0.0225411470 * c;
}

void main() {
    vec3 n = normalize(normal);
    vec3 albedo = colour;
    float skin = clamp(1.0 - abs(kind.y - 1.0), 0.0, 1.0);
    float gloss = 0.0, plate = 0.0;
    if (textured) {
        vec4 t = mix(texture(back_texture, uv), texture(front_texture, uv), smoothstep(-0.35, 0.35, kind.x));
        albedo *= 2.0 * t.rgb;
        float height = (t.a - 0.5) * relief;
        gloss = skin;
        if (max(abs(nail.x), abs(nail.y)) + nail.z < 1.6) {
            vec2 q = abs(nail.xy);
            float edge = dot(q * q, q) + 4.0 * max(nail.z, 0.0);
            plate = 1.0 - smoothstep(0.72, 1.0, edge);
            float fold = smoothstep(0.72, 1.0, edge) * (1.0 - smoothstep(1.1, 2.4, edge));
            float moon = 1.0 - smoothstep(0.28, 0.42, length(vec2(nail.x * 0.8, nail.y + 1.0)));
            float rim = smoothstep(0.66, 0.80, nail.y);
            vec3 bed = colour * vec3(1.02, 0.92, 0.94) + vec3(0.05, 0.035, 0.035);
            bed = mix(bed, vec3(0.72, 0.62, 0.55), 0.4 * moon + 0.55 * rim);
            albedo = mix(albedo * (1.0 - 0.22 * fold), bed, plate);
            height = mix(height, 0.0, plate);
            gloss = mix(gloss, 2.6, plate);
        }
        n = bumped(n, height);
    }
    vec3 eye = normalize(-position);
    vec3 wrap = mix(vec3(0.06), vec3(0.42, 0.20, 0.15), skin);
    vec3 facing = clamp((dot(n, key_direction) + wrap) / (1.0 + wrap), 0.0, 1.0);
    // Skin lets red light round the edge of a shadow.
    vec3 shadow = light.y + light.y * (1.0 - light.y) * vec3(0.25, -0.05, -0.14) * skin;
    vec3 open = light.x + light.x * (1.0 - light.x) * vec3(0.16, -0.05, -0.10) * skin;
    vec3 ambient = mix(ground_colour, sky_colour, 0.5 + 0.5 * dot(n, up));
    vec3 c = albedo * (key_colour * facing * shadow + ambient * open);
    float grazing = 1.0 - max(dot(n, eye), 0.0);
    float fresnel = 0.03 + 0.97 * grazing * grazing * grazing * grazing * grazing;
    float h = max(dot(n, normalize(key_direction + eye)), 0.0);
    float h4 = h * h * h * h, h16 = h4 * h4 * h4 * h4;
    float shine = mix(0.034 * h16 * h4, 0.11 * h16 * h16 * h16 * h16, plate);
    c += gloss * (shine * key_colour * light.y + 0.10 * fresnel * ambient * light.x);
    result = vec4(encode(c), 1.0);
}
"""

LABEL_VERTEX = (
    "#version 330\n"
    + _PROJECT
    + """
in vec3 in_position;
in float in_part;
out float depth;
flat out float part;

void main() {
    depth = in_position.z;
    part = in_part;
    gl_Position = project(in_position);
}
"""
)

LABEL_FRAGMENT = """#version 330
uniform float id;
in float depth;
flat in float part;
out vec2 result;

void main() {
    result = vec2(depth, id + part);
}
"""

SILHOUETTE_FRAGMENT = """#version 330
uniform vec2 mark;
uniform float parts;
in float depth;
flat in float part;
out vec2 result;

void main() {
    // Depth is read, though nothing needs it, because drivers drop what a program does not use.
    result = part < parts && depth > 0.0 ? mark : vec2(0.0);
}
"""

BACKGROUND_VERTEX = """#version 330
in vec2 in_corner;

void main() {
    gl_Position = vec4(in_corner, 0.0, 1.0);
}
"""

BACKGROUND_FRAGMENT = """#version 330
uniform sampler2D picture;
uniform ivec2 origin;
out vec4 result;

void main() {
    result = vec4(texelFetch(picture, ivec2(gl_FragCoord.xy) + origin, 0).rgb, 1.0);
}
"""
